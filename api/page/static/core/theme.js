// Light, dark, or as the system says. Not a module: it runs before the page is painted, so that nothing flashes.

(() => {
  const NAME = "penstock-theme";
  const CHOICES = ["auto", "light", "dark"];
  const read = () => (CHOICES.includes(localStorage.getItem(NAME)) ? localStorage.getItem(NAME) : "auto");
  const apply = (choice) => {
    document.documentElement.dataset.theme = choice;
  };
  apply(read());
  window.penstockTheme = {
    read,
    next() {
      const choice = CHOICES[(CHOICES.indexOf(read()) + 1) % CHOICES.length];
      localStorage.setItem(NAME, choice);
      apply(choice);
      return choice;
    },
  };
})();
