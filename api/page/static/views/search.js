// From what somebody typed or pasted to the place that it names. Pure.

const WHOLE = { job: /^job_[0-9a-f]{32}$/, batch: /^batch_[0-9a-f]{32}$/ };
const BEGINNING = /^(?:job_)?([0-9a-f]{4,31})$/;
const PASTED = /(job|batch)_[0-9a-f]{32}/;

/** `{parts, query}`, or `{problem}`. A whole id may stand in a longer text, such as a line of a log. */
export function find(text) {
  const wanted = text.trim();
  const whole = PASTED.exec(wanted)?.[0];
  if (whole) return { parts: [WHOLE.job.test(whole) ? "jobs" : "batches", whole], query: {} };
  const chat = /^(?:chatcmpl|cmpl|resp)[-_]([0-9a-f]{32})$/.exec(wanted);
  if (chat) return { parts: ["jobs", `job_${chat[1]}`], query: {} };
  const begun = BEGINNING.exec(wanted.toLowerCase());
  if (begun) return { parts: ["jobs"], query: { id: `job_${begun[1]}` } };
  return { problem: "An id is job_ or batch_ and 32 digits; its first digits find jobs, too." };
}
