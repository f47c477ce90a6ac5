// A file of prompts to the lines of a batch, while it is read. What is a batch's line already goes out as it is.

const HEAD_BYTES = 1024 * 1024;
const URLS = ["/v1/chat/completions", "/v1/completions", "/v1/jobs"];

/**
 * What a file is, by its first line: `{kind, endpoint, sample}`. `kind`: `batch` (lines of a batch), `prompts` (JSON
 * strings, or objects with a prompt) or `text` (a prompt a line).
 */
export async function recognise(file) {
  const head = await file.slice(0, HEAD_BYTES).text();
  const sample = head.replace(/^\uFEFF/, "").split("\n").find((line) => line.trim()) ?? "";
  const value = parsed(sample);
  if (value && typeof value === "object" && ("url" in value || "body" in value)) {
    return { kind: "batch", endpoint: URLS.includes(value.url) ? value.url : URLS[0], sample };
  }
  const json = typeof value === "string" || (value && typeof value === "object" && ("prompt" in value || "messages" in value));
  return { kind: json ? "prompts" : "text", endpoint: "/v1/jobs", sample };
}

/** The lines of a batch that a file of prompts becomes, as a file. `given`: parameters for each; a line's own win. */
export async function toLines(file, kind, given, system) {
  const pieces = [];
  let number = 0;
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  const take = (lines) => {
    // A line keeps the number that it has in an editor: what is blank stays a blank line.
    const made = lines.map((line) => asLine(line.replace(/\r$/, ""), (number += 1), kind, given, system));
    if (made.length) pieces.push(new Blob([`${made.join("\n")}\n`]));
  };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    take(lines);
  }
  if (rest) take([rest]);
  return new File(pieces, file.name.replace(/\.\w+$/, "") + ".jsonl", { type: "application/jsonl" });
}

function asLine(line, number, kind, given, system) {
  if (!line.trim()) return "";
  const value = kind === "text" ? line : parsed(line);
  if (typeof value === "string") return made(`line-${number}`, { ...given, messages: chat(value, system) });
  if (!value || typeof value !== "object") return line; // for the API to refuse, by its number
  const { custom_id: id = `line-${number}`, ...body } = value;
  return made(id, { ...given, ...body });
}

const made = (id, body) => JSON.stringify({ custom_id: id, method: "POST", url: "/v1/jobs", body });

function chat(text, system) {
  return [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: text }];
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
