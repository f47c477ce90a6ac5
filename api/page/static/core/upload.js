// Sends a file, and tells how far it is: what `fetch` cannot do yet.

import { ApiError, headers, refusalOf } from "./api.js";

/** The stored file's object. `onProgress(part)` hears of the part that was sent, 0 to 1. */
export function upload(file, { signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(headers())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    call.onload = () => {
      const body = read(call.responseText);
      if (call.status >= 200 && call.status < 300) resolve(body);
      else reject(refusalOf(call.status, body));
    };
    call.onerror = () => reject(new ApiError("The upload broke off."));
    call.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => call.abort());
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", file, file.name);
    call.send(form);
  });
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
