// What the page asks of the server that it came from.

let key = sessionStorage.getItem("eft-key") || "";

export const useKey = (text) => {
  key = text;
  sessionStorage.setItem("eft-key", text);
};

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const headers = () => ({ "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) });

async function refused(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no body that says more */ }
  return new ApiError(message, response.status);
}

export async function get(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok && path !== "/health") throw await refused(response);
  return response.json();
}

export async function steer(id, dials) {
  const response = await fetch(`/v1/replies/${id}/eft`, { method: "POST", headers: headers(), body: JSON.stringify(dials) });
  return response.ok;
}

// Calls `take` with every chunk of a streamed reply; ends with the reply, or with an exception.
export async function stream(body, signal, take) {
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), signal, body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  if (!response.ok) throw await refused(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: {")) continue;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new ApiError(chunk.error.message, 200);
      take(chunk);
    }
  }
}
