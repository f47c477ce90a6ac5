// Calls of the API: the key, errors as one type, the API's own word on when to ask again. Knows no element.

import { acceptKey, readKey, refuseKey } from "./key.js";

const OFFLINE = "The API cannot be reached.";

/** What the API refused, or that it was not reached (`status` 0). `param` names the field that is wrong. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "unreachable", param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }

  get missing() {
    return this.status === 404;
  }
}

export function headers(more = {}) {
  const key = readKey();
  return key ? { Authorization: `Bearer ${key}`, ...more } : more;
}

/** The JSON of an answer, with `retryAfter` (seconds) beside it: `{data, retryAfter}`. */
export async function look(path, signal) {
  const reply = await request("GET", path, { signal });
  return { data: await read(reply), retryAfter: retryAfterOf(reply) };
}

export async function get(path, signal) {
  return (await look(path, signal)).data;
}

/** `key`: an idempotency key, so that a call made twice makes one thing. */
export async function post(path, body, { signal, key } = {}) {
  const more = { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...(key ? { "Idempotency-Key": key } : {}) };
  return read(await request("POST", path, { signal, headers: more, body: body === undefined ? undefined : JSON.stringify(body) }));
}

/** A stream's answer, once its head has come. */
export async function open(path, { signal, headers: more }) {
  return request("GET", path, { signal, headers: more });
}

async function request(method, path, { signal, headers: more, body }) {
  let reply;
  try {
    reply = await fetch(path, { method, headers: headers(more), body, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(OFFLINE);
  }
  if (!reply.ok) throw await refusal(reply);
  acceptKey();
  return reply;
}

async function read(reply) {
  try {
    return await reply.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The answer of the API broke off.");
  }
}

async function refusal(reply) {
  const body = await reply.json().catch(() => ({}));
  return refusalOf(reply.status, body, retryAfterOf(reply));
}

/** The error that an answer stands for. Asks for a key where one is missing. */
export function refusalOf(status, body, retryAfter = null) {
  if (status === 401) refuseKey();
  const { message, code, param } = body?.error ?? {};
  return new ApiError(message ?? `The API answered ${status}.`, { status, code: code ?? "http_error", param, retryAfter });
}

function retryAfterOf(reply) {
  const told = Number(reply.headers.get("Retry-After"));
  return Number.isFinite(told) && told > 0 ? told : null;
}

/** A query string of what is set; empty where nothing is. */
export function query(fields) {
  const set = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

/** A key for one press of a button. Without `randomUUID`, which pages that came by plain HTTP do not have. */
export function idempotencyKey() {
  const drawn = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(drawn, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
