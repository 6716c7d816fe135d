// Reads pages without rendering them, in an isolated world of an empty document that has the site's origin. Evaluated
// once; answers the function that reads one page.
//
// What only a rendered page can tell is answered with {needs_full: reason}. What it is read as depends on what the
// response says: where a browser would have to guess, it is not read here. `guardsHeader` is on answers of the
// egress guard.
(run, guardsHeader) => {
  const HTML = /^(text\/html|application\/xhtml\+xml)$/;
  const PRESCANNED_BYTES = 1024;
  const MOST_ELEMENTS = 500000;

  // The character set as https://encoding.spec.whatwg.org/ and the prescan of HTML determine it; null where only a
  // guess would.
  function characterSet(bytes, declared, type) {
    if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) return "utf-8";
    if (bytes[0] === 0xff && bytes[1] === 0xfe) return "utf-16le";
    if (bytes[0] === 0xfe && bytes[1] === 0xff) return "utf-16be";
    for (const label of [declared, () => (type === "text/html" ? inMarkup(bytes) : inXml(bytes))]) {
      const name = typeof label === "function" ? label() : label;
      try {
        if (name) return new TextDecoder(name.trim()).encoding;
      } catch {
        // A label that nobody knows counts as none.
      }
    }
    return null;
  }

  // What is no markup, however much it looks like it, and a tag with its attributes.
  const NO_MARKUP = /<!--[^]*?-->|<(script|style|title|textarea|noscript|xmp|iframe|noembed|noframes)\b[^>]*>[^]*?(<\/\1|$)/gi;
  const TAG = /<[a-z/](?:"[^"]*"|'[^']*'|[^"'>])*>/gi;

  function inMarkup(bytes) {
    const start = new TextDecoder("latin1").decode(bytes.subarray(0, PRESCANNED_BYTES)).replace(NO_MARKUP, "");
    for (const [tag] of start.matchAll(TAG)) {
      if (!/^<meta[\s/]/i.test(tag)) continue;
      const content = /\scontent\s*=\s*("[^"]*"|'[^']*'|[^\s>]+)/i.exec(tag);
      const isType = /\shttp-equiv\s*=\s*["']?\s*content-type/i.test(tag);
      const declaring = content === null ? tag : isType ? content[1] : tag.replace(content[0], "");
      const label = /charset\s*=\s*["']?\s*([^\s"'/>;]+)/i.exec(declaring)?.[1].toLowerCase();
      // What was read as single bytes cannot be UTF-16, whatever it says.
      if (label) return label.startsWith("utf-16") ? "utf-8" : label === "x-user-defined" ? "windows-1252" : label;
    }
    return null;
  }

  // XML is UTF-8 where it does not say otherwise.
  function inXml(bytes) {
    const start = new TextDecoder("latin1").decode(bytes.subarray(0, PRESCANNED_BYTES));
    return /^<\?xml[^>]*\sencoding\s*=\s*["']([^"']+)/.exec(start)?.[1] ?? "utf-8";
  }

  async function bodyOf(response, limit) {
    // What comes as it is, and says how long that is, comes faster in one piece. Chrome reads no more than was said.
    const has = (name) => response.headers.has(name);
    const said = response.headers.get("content-length") ?? "";
    const isPlain = response.type === "basic" && !has("content-encoding") && !has("transfer-encoding");
    if (isPlain && /^[1-9][0-9]{0,15}$/.test(said) && Number(said) <= limit) {
      return new Uint8Array(await response.arrayBuffer());
    }
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

  // A page may name its elements like properties of the document.
  const uncurried = (method) => Function.prototype.call.bind(method);
  const all = uncurried(Document.prototype.querySelectorAll);
  const attribute = uncurried(Element.prototype.getAttribute);

  // A browser that runs scripts reads what is in `noscript` as text. The parser here runs none, and would read elements;
  // so it is given empty ones, whose text is put back. In comments, scripts and attributes that would do harm: there it
  // is seen that not every one has become an element.
  const START = /<noscript/gi;
  const END = /<\/noscript\s*>/gi;
  const MARK = "data-crawlify-noscript";

  function firstFrom(at, pattern, text) {
    pattern.lastIndex = at;
    return pattern.exec(text);
  }

  // The text with empty ones, and what was in each; null where one is no tag, or has no end. Goes through any text
  // once: to look for the ends of a million that have none would take hours, and nothing could interrupt it.
  function emptied(text) {
    const contents = [];
    let html = "";
    let from = 0;
    while (firstFrom(from, START, text) !== null) {
      const isTag = /[\s>]/.test(text.charAt(START.lastIndex));
      const content = text.indexOf(">", START.lastIndex) + 1;
      const end = isTag && content > 0 ? firstFrom(content, END, text) : null;
      if (end === null) return null;
      html += `${text.slice(from, content - 1)} ${MARK}="${contents.length}"></noscript>`;
      contents.push(text.slice(content, end.index));
      from = END.lastIndex;
    }
    return { html: html + text.slice(from), contents };
  }

  function parse(text, type) {
    const isHtml = type === "text/html";
    const given = isHtml ? emptied(text) : { html: text, contents: [] };
    if (given === null) return null;
    const { html, contents } = given;
    const parsed = new DOMParser().parseFromString(html, type);
    if (Document.prototype.getElementsByTagName.call(parsed, "*").length > MOST_ELEMENTS) {
      throw { reason: `it has more than ${MOST_ELEMENTS} elements` };
    }
    const found = all(parsed, "noscript");
    if (isHtml && found.length !== contents.length) return null;
    for (const element of isHtml ? found : []) {
      const content = contents[attribute(element, MARK)];
      if (content === undefined) return null;
      element.removeAttribute(MARK);
      element.textContent = content;
    }
    // In a tab these become shadow trees, which no selector reaches.
    for (const shadow of all(parsed, 'template[shadowrootmode="open" i], template[shadowrootmode="closed" i]')) {
      shadow.remove();
    }
    return parsed;
  }

  function baseOf(parsed, url) {
    const [element] = all(parsed, "base[href]");
    if (element === undefined) return url;
    const href = attribute(element, "href");
    try {
      const base = new URL(href, url);
      return /^(data|javascript):$/.test(base.protocol) ? url : base.href;
    } catch {
      return url;
    }
  }

  function sendsOn(parsed) {
    for (const meta of all(parsed, "meta[http-equiv][content]")) {
      const isRefresh = attribute(meta, "http-equiv").trim().toLowerCase() === "refresh";
      if (isRefresh && parseFloat(attribute(meta, "content")) < 1) return true;
    }
    return false;
  }

  async function read(request, program) {
    const { url, headers, byte_limit: byteLimit, timeout_ms: timeout, fresh } = JSON.parse(request);
    const asked = performance.now();
    const response = await fetch(url, {
      credentials: "include",
      referrerPolicy: "no-referrer",
      headers,
      // To compare, the server is asked itself.
      cache: fresh ? "no-store" : "default",
      signal: AbortSignal.timeout(timeout),
    });
    // Whether it is one of the guard's only a tab can ask.
    if (response.headers.has(guardsHeader)) {
      response.body?.cancel();
      return { needs_full: "the egress guard answered, or a server that says so" };
    }
    const { url: at, redirected, status } = response;
    const document = { url: at, base: at, redirected, status, answered_in_ms: performance.now() - asked };
    if (response.status >= 400) {
      document.retry_after = response.headers.get("retry-after");
      response.body?.cancel();
      return { document, results: null };
    }
    const [type, ...parameters] = (response.headers.get("content-type") ?? "").toLowerCase().split(";");
    if (!HTML.test(type.trim())) return { needs_full: `the content type is \`${type.trim().slice(0, 60)}\`` };
    if (/attachment/i.test(response.headers.get("content-disposition") ?? "")) return { needs_full: "it is a download" };
    if (response.headers.has("refresh")) return { needs_full: "the response sends the browser on" };
    if (response.body === null) return { needs_full: "the response is empty" };
    const bytes = await bodyOf(response, byteLimit);
    if (bytes === null) return { needs_full: `the document has more than ${byteLimit} bytes` };
    const declared = parameters.map((one) => /^\s*charset\s*=\s*"?([^"]*)/.exec(one)?.[1]).find(Boolean);
    let set = characterSet(bytes, declared, type.trim());
    if (set === null) {
      if (bytes.some((byte) => byte > 127)) return { needs_full: "it declares no character set" };
      set = "utf-8";
    }
    const parsed = parse(new TextDecoder(set).decode(bytes), type.trim());
    if (parsed === null) return { needs_full: "it has a `noscript` that is no element, or has no end" };
    if (sendsOn(parsed)) return { needs_full: "the page sends the browser on" };
    document.base = baseOf(parsed, response.url);
    document.bytes = bytes.length;
    return { document, results: await run(program, [], null, parsed) };
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
