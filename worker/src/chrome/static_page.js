// Reads pages without rendering them, in an isolated world of an empty document that has the site's origin. Evaluated
// once; answers the function that reads one page.
//
// What only a rendered page can tell is answered with {needs_full: reason}. What it is read as depends on what the
// response says: where a browser would have to guess, it is not read here.
(run) => {
  const HTML = /^(text\/html|application\/xhtml\+xml)$/;
  const PRESCANNED_BYTES = 1024;

  // The character set as https://encoding.spec.whatwg.org/ and the prescan of HTML determine it; null where only a
  // guess would.
  function characterSet(bytes, declared) {
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) return "utf-8";
    if (bytes[0] === 0xff && bytes[1] === 0xfe) return "utf-16le";
    if (bytes[0] === 0xfe && bytes[1] === 0xff) return "utf-16be";
    for (const label of [declared, () => inMarkup(bytes)]) {
      const name = typeof label === "function" ? label() : label;
      try {
        if (name) return new TextDecoder(name.trim()).encoding;
      } catch {
        // A label that nobody knows counts as none.
      }
    }
    return null;
  }

  function inMarkup(bytes) {
    const start = new TextDecoder("latin1").decode(bytes.subarray(0, PRESCANNED_BYTES)).replace(/<!--[^]*?-->/g, "");
    for (const [tag] of start.matchAll(/<meta[\s/][^>]*>/gi)) {
      const label = /charset\s*=\s*["']?\s*([^\s"'/>;]+)/i.exec(tag)?.[1].toLowerCase();
      // What was read as single bytes cannot be UTF-16, whatever it says.
      if (label) return label.startsWith("utf-16") ? "utf-8" : label === "x-user-defined" ? "windows-1252" : label;
    }
    return null;
  }

  async function bodyOf(response, limit) {
    const chunks = [];
    let length = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      if (length > limit) {
        reader.cancel();
        return null;
      }
      chunks.push(value);
    }
    if (chunks.length === 1) return chunks[0];
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return bytes;
  }

  // A browser that runs scripts reads what is in `noscript` as text. The parser here runs none, and would read elements;
  // so it is given empty ones, whose text is put back.
  const NOSCRIPT = /<noscript((?:\s[^>]*)?)>([^]*?)<\/noscript\s*>/gi;
  const MARK = "data-crawlify-noscript";

  function parse(text, type) {
    const texts = [];
    if (type === "text/html") {
      text = text.replace(NOSCRIPT, (whole, attributes, content) => {
        texts.push({ whole, content });
        return `<noscript${attributes} ${MARK}="${texts.length - 1}"></noscript>`;
      });
    }
    const parsed = new DOMParser().parseFromString(text, type);
    // In a tab these become shadow trees, which no selector reaches.
    for (const shadow of parsed.querySelectorAll('template[shadowrootmode="open" i], template[shadowrootmode="closed" i]')) {
      shadow.remove();
    }
    if (texts.length > 0) putBack(parsed, texts);
    return parsed;
  }

  function putBack(parsed, texts) {
    for (const element of parsed.querySelectorAll(`noscript[${MARK}]`)) {
      const { content } = texts[element.getAttribute(MARK)] ?? {};
      element.removeAttribute(MARK);
      if (content !== undefined) element.textContent = content;
    }
    // Some were no elements at all, but text of a script or a comment.
    const walker = parsed.createTreeWalker(parsed, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_COMMENT);
    const marked = new RegExp(`<noscript[^>]* ${MARK}="(\\d+)"></noscript>`, "g");
    for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
      if (node.data.includes(MARK)) {
        node.data = node.data.replace(marked, (mark, index) => texts[index]?.whole ?? mark);
      }
    }
  }

  function baseOf(parsed, url) {
    const href = parsed.querySelector("base[href]")?.getAttribute("href");
    if (href === undefined) return url;
    try {
      const base = new URL(href, url);
      return /^(data|javascript):$/.test(base.protocol) ? url : base.href;
    } catch {
      return url;
    }
  }

  function sendsOn(parsed) {
    for (const meta of parsed.querySelectorAll("meta[http-equiv][content]")) {
      if (meta.httpEquiv.toLowerCase() === "refresh" && parseFloat(meta.content) < 1) return true;
    }
    return false;
  }

  async function read(request, program) {
    const { url, headers, byte_limit: byteLimit, timeout_ms: timeout } = JSON.parse(request);
    const response = await fetch(url, {
      credentials: "include",
      referrerPolicy: "no-referrer",
      headers,
      signal: AbortSignal.timeout(timeout),
    });
    const document = { url: response.url, base: response.url, status: response.status };
    if (response.status >= 400) {
      response.body?.cancel();
      return { document, results: "[]" };
    }
    const [type, ...parameters] = (response.headers.get("content-type") ?? "").toLowerCase().split(";");
    if (!HTML.test(type.trim())) return { needs_full: `the content type is \`${type.trim().slice(0, 60)}\`` };
    if (/attachment/i.test(response.headers.get("content-disposition") ?? "")) return { needs_full: "it is a download" };
    if (response.headers.has("refresh")) return { needs_full: "the response sends the browser on" };
    if (response.body === null) return { needs_full: "the response is empty" };
    const bytes = await bodyOf(response, byteLimit);
    if (bytes === null) return { needs_full: `the document has more than ${byteLimit} bytes` };
    const declared = parameters.map((one) => /^\s*charset\s*=\s*"?([^"]*)/.exec(one)?.[1]).find(Boolean);
    let set = characterSet(bytes, declared);
    if (set === null) {
      if (bytes.some((byte) => byte > 127)) return { needs_full: "it declares no character set" };
      set = "utf-8";
    }
    const parsed = parse(new TextDecoder(set).decode(bytes), type.trim());
    if (sendsOn(parsed)) return { needs_full: "the page sends the browser on" };
    document.base = baseOf(parsed, response.url);
    return { document, results: await run(program, [], parsed) };
  }

  return async (request, program) => {
    try {
      return JSON.stringify(await read(request, program));
    } catch (error) {
      const reason = error.reason ?? `it was not fetched: ${error?.message ?? error}`;
      return JSON.stringify({ needs_full: String(reason).toWellFormed() });
    }
  };
}
