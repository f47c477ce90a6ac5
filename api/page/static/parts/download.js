// A file's bytes to the person's disk. Where a key is needed a plain link cannot bring it, so the bytes go through the page.

import { open } from "../core/api.js";
import { h } from "../core/dom.js";
import { readKey } from "../core/key.js";

export async function download(file) {
  const path = `/v1/files/${file.id}/content`;
  if (!readKey()) return click(path, file.filename);
  const reply = await open(path, {});
  const url = URL.createObjectURL(await reply.blob());
  click(url, file.filename);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function click(href, filename) {
  const anchor = h("a", { href, download: filename, hidden: true });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
}
