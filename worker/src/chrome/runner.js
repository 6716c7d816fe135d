// Runs the steps of one page, in an isolated world: the page's scripts cannot reach what is used here. What they can
// do is give elements names that hide a property of `document` or of a form (`<input name="getAttribute">`), and clear
// timers by their number; therefore properties are read through prototypes, and pauses are tasks, not timers.
//
// `program` is JSON: {steps, step_limit, links_limit, total_limit}; `endedGroups` are numbers. After `timeLeft` milliseconds
// no further step is run, and what is known by then is the result; null is no limit. `parsed` is the document of a page
// that was fetched and not rendered; without it, the page itself is meant. The result is JSON: when the run began and
// ended, and for each step an object, or null where it was not run.
async function run(program, endedGroups, timeLeft, parsed) {
  const { steps, step_limit: stepLimit, links_limit: linksLimit, total_limit: totalLimit } = JSON.parse(program);
  const root = parsed ?? document;

  const uncurried = (method) => Function.prototype.call.bind(method);
  const getter = (prototype, name) => uncurried(Object.getOwnPropertyDescriptor(prototype, name).get);
  const textContentOf = getter(Node.prototype, "textContent");
  const innerHtmlOf = getter(Element.prototype, "innerHTML");
  const attributeOf = uncurried(Element.prototype.getAttribute);
  const rectanglesOf = uncurried(Element.prototype.getClientRects);
  const firstInDocument = uncurried(Document.prototype.querySelector);
  const allInDocument = uncurried(Document.prototype.querySelectorAll);
  const firstInElement = uncurried(Element.prototype.querySelector);
  const allInElement = uncurried(Element.prototype.querySelectorAll);
  const evaluate = uncurried(Document.prototype.evaluate);

  const now = () => performance.timeOrigin + performance.now();
  const runBegun = now();
  const runEnd = timeLeft === null ? Infinity : performance.now() + timeLeft;
  const sleep = (ms) =>
    typeof scheduler === "object"
      ? scheduler.postTask(() => {}, { delay: ms, priority: "user-blocking" })
      : new Promise((done) => setTimeout(done, ms));

  class StepError {
    constructor(errorClass, message, lasting) {
      this.errorClass = errorClass;
      this.message = message;
      // Whether running the step again can change nothing.
      this.lasting = lasting;
    }
  }

  // Ends the whole run: the page's time is over.
  class OutOfTime extends StepError {
    constructor(doing) {
      super("nav_timeout", `the page's time was over ${doing}`, true);
    }
  }

  // Ends the whole run: only a rendered page can tell.
  class NeedsFull {
    constructor(reason) {
      this.reason = reason;
    }
  }

  const shown = (selector) => `selector ${JSON.stringify(selector.query.toWellFormed())}`;

  // The matches under `from`: all of them, or an array with the first alone.
  function find(selector, from, all) {
    const inDocument = from === root;
    try {
      if (selector.engine === "css") {
        if (!inDocument && !(from instanceof Element)) return [];
        if (all) return Array.from((inDocument ? allInDocument : allInElement)(from, selector.query));
        const first = (inDocument ? firstInDocument : firstInElement)(from, selector.query);
        return first === null ? [] : [first];
      }
      // Within an element, an absolute path means its descendants.
      const query = !inDocument && selector.query.startsWith("/") ? `.${selector.query}` : selector.query;
      const kind = all ? XPathResult.ORDERED_NODE_SNAPSHOT_TYPE : XPathResult.FIRST_ORDERED_NODE_TYPE;
      const found = evaluate(root, query, from, null, kind, null);
      if (!all) return found.singleNodeValue === null ? [] : [found.singleNodeValue];
      return Array.from({ length: found.snapshotLength }, (_, index) => found.snapshotItem(index));
    } catch (error) {
      const problem = error instanceof TypeError ? "selects no elements" : "is not valid";
      throw new StepError("script", `${shown(selector)} ${problem}`, true);
    }
  }

  // Where no scripts run, the text of `noscript` is written as if it were not one of those that are written as they are.
  const unescaped = (text) =>
    text.replace(/&(lt|gt|nbsp|amp);/g, (_, name) => ({ lt: "<", gt: ">", nbsp: "\u00a0", amp: "&" })[name]);
  function htmlOf(element) {
    const html = innerHtmlOf(element);
    if (parsed === undefined) return html;
    return element.localName === "noscript" ? unescaped(html) : withNoscriptUnescaped(html);
  }

  // Goes through it once: what looks like the beginning of one may be there a million times, as in a comment.
  function withNoscriptUnescaped(html) {
    let written = "";
    let from = 0;
    for (let at = 0; (at = html.indexOf("<noscript", at)) >= 0; ) {
      const text = html.indexOf(">", at) + 1;
      const end = text > 0 ? html.indexOf("<", text) : -1;
      if (end < 0) break;
      if (html.startsWith("</noscript>", end)) {
        written += html.slice(from, text) + unescaped(html.slice(text, end));
        from = end;
      }
      // Whatever else began before `text` would have to end here too.
      at = end;
    }
    return written + html.slice(from);
  }

  function readFrom(node, read) {
    const isElement = node instanceof Element;
    switch (read.read) {
      case "html":
        return isElement ? htmlOf(node) : textContentOf(node);
      case "attribute":
        return isElement ? (attributeOf(node, read.name) ?? "") : "";
      default:
        return textContentOf(node) ?? "";
    }
  }

  // Keeps text until a step has had its share; what is over is cut off.
  class Budget {
    constructor(limit) {
      this.left = limit;
      this.exceeded = false;
      // How long the whole is.
      this.length = 1;
    }
    keep(text) {
      if (text.length > this.left) {
        this.exceeded = true;
        text = text.slice(0, this.left);
      }
      // Quotes and a comma cost too, so that a million empty strings have an end.
      this.left = Math.max(0, this.left - text.length - 4);
      return text.toWellFormed();
    }
  }

  function collect(nodes, budget, value) {
    const values = [];
    for (const node of nodes) {
      const one = value(node);
      if (one !== undefined) values.push(one);
      if (budget.exceeded) break;
    }
    budget.length = nodes.length;
    return values;
  }

  function links(selector, budget) {
    return collect(find(selector, root, true), budget, (node) => {
      const href = node instanceof Element ? attributeOf(node, "href") : textContentOf(node);
      if (href === null || href.trim() === "") return undefined;
      const kept = budget.keep(href);
      // A part of an address is another address.
      return budget.exceeded ? undefined : kept;
    });
  }

  function objectOf(node, fields, budget) {
    const object = Object.create(null);
    for (const field of fields) {
      const target = field.selector === null ? node : find(field.selector, node, false)[0];
      if (target !== undefined) object[field.name] = budget.keep(readFrom(target, field.read));
    }
    return object;
  }

  function read(step, budget) {
    const nodes = find(step.selector, root, step.multiple);
    const value = (node) =>
      step.fields.length > 0 ? objectOf(node, step.fields, budget) : budget.keep(readFrom(node, step.read));
    if (step.multiple) return collect(nodes, budget, value);
    if (nodes.length === 0) {
      if (step.required) throw new StepError("selector_missing", `${shown(step.selector)} not found`);
      return null;
    }
    const one = value(nodes[0]);
    if (budget.exceeded && step.fields.length === 0) budget.length = readFrom(nodes[0], step.read).length;
    return one;
  }

  const isVisible = (node) =>
    node instanceof Element && rectanglesOf(node).length > 0 && getComputedStyle(node).visibility === "visible";

  function isReached(selector, state) {
    const [first] = find(selector, root, false);
    if (state === "attached") return first !== undefined;
    const visible = first !== undefined && (parsed !== undefined || isVisible(first));
    return state === "hidden" ? !visible : visible;
  }

  async function waitFor({ selector, state, timeout_ms: timeout }) {
    const end = Math.min(performance.now() + timeout, runEnd);
    if (isReached(selector, state)) return;
    // Nothing will ever change in a document that no script runs in.
    if (parsed !== undefined) throw new NeedsFull(`${shown(selector)} is not ${state} in the response`);
    let changed;
    const observer = new MutationObserver(() => changed());
    observer.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
    try {
      for (;;) {
        const left = end - performance.now();
        if (left <= 0 && end === runEnd) throw new OutOfTime(`while it waited for ${shown(selector)}`);
        if (left <= 0) throw new StepError("selector_missing", `${shown(selector)} was not ${state} within ${timeout} ms`);
        // Styles, animations and shadow trees change without a mutation, and frames stop in a tab that is not painted.
        const change = new Promise((resolve) => (changed = resolve));
        await Promise.race([change.then(() => new Promise(requestAnimationFrame)), sleep(Math.min(50, left))]);
        if (isReached(selector, state)) return;
      }
    } finally {
      observer.disconnect();
    }
  }

  const rectangleOf = uncurried(Element.prototype.getBoundingClientRect);
  const scrollIntoView = uncurried(Element.prototype.scrollIntoView);
  const matches = uncurried(Element.prototype.matches);
  const closest = uncurried(Element.prototype.closest);
  const contains = uncurried(Node.prototype.contains);
  const focusedIn = getter(Document.prototype, "activeElement");
  const atPoint = uncurried(Document.prototype.elementFromPoint);
  const scrollerOf = getter(Document.prototype, "scrollingElement");
  const frame = () => Promise.race([new Promise(requestAnimationFrame), sleep(50)]);

  // What keeps an element from being clicked on at its middle; undefined is nothing. One that gets the focus may be covered.
  function obstacle(element, { x, y, width, height }, before, focus) {
    if (!isVisible(element) || width === 0 || height === 0) return "was not visible";
    if (matches(element, ":disabled")) return "was disabled";
    if (before === undefined || before.x !== x || before.y !== y) return "did not come to rest";
    if (focus) return undefined;
    const hit = atPoint(document, x + width / 2, y + height / 2);
    if (hit === null) return "was outside the window";
    if (contains(element, hit)) return undefined;
    if (closest(hit, "label")?.control === element) return undefined;
    return `was covered by \`${hit.localName}\``;
  }

  // What is typed comes after what is there already. Answers whether it will come there at all.
  function focusOn(element) {
    HTMLElement.prototype.focus.call(element, { preventScroll: true });
    try {
      element.setSelectionRange(element.value.length, element.value.length);
    } catch {
      // Not every kind of element has a place for a cursor.
    }
    const focused = focusedIn(document);
    return focused !== null && focused !== document.body && contains(element, focused);
  }

  // The point of an element that can be clicked on, scrolled into the window; `before` is where it was a frame ago.
  async function locate({ selector, timeout_ms: timeout, focus }) {
    if (parsed !== undefined) throw new NeedsFull("something is done to the page");
    const end = Math.min(performance.now() + timeout, runEnd);
    for (let before; ; ) {
      const [element] = find(selector, root, false);
      let problem = "was not there";
      if (element instanceof Element) {
        scrollIntoView(element, { block: "center", inline: "center", behavior: "instant" });
        // Of one that goes over several lines, the first.
        const place = rectanglesOf(element)[0] ?? rectangleOf(element);
        problem = obstacle(element, place, before, focus);
        before = place;
        if (problem === undefined && focus && !focusOn(element)) problem = "did not take the focus";
        if (problem === undefined) {
          return { x: place.x + place.width / 2, y: place.y + place.height / 2 };
        }
      }
      const left = end - performance.now();
      if (left <= 0 && end === runEnd) throw new OutOfTime(`while it waited for ${shown(selector)}, which ${problem}`);
      if (left <= 0) throw new StepError("selector_missing", `${shown(selector)} ${problem} within ${timeout} ms`);
      await frame();
    }
  }

  async function scroll({ to }) {
    if (parsed !== undefined) throw new NeedsFull("something is done to the page");
    const [x, y] = to === "bottom" ? [0, scrollerOf(document)?.scrollHeight ?? 0] : to.point;
    globalThis.scrollTo({ left: x, top: y, behavior: "instant" });
    await frame();
    return { x: globalThis.scrollX, y: globalThis.scrollY };
  }

  function output(step, budget) {
    switch (step.op) {
      case "locate":
        return locate(step);
      case "scroll":
        return scroll(step);
      case "wait_for":
        return waitFor(step.wait_for);
      case "links":
        return links(step.selector, budget);
      default:
        return read(step, budget);
    }
  }

  const results = [];
  const ended = new Set(endedGroups);
  let left = totalLimit;
  for (const step of steps) {
    if (ended.has(step.group)) {
      results.push(null);
      continue;
    }
    const result = { started: now(), retries: 0 };
    results.push(result);
    for (;;) {
      try {
        if (performance.now() >= runEnd) throw new OutOfTime(`before it was run${result.retries > 0 ? " again" : ""}`);
        const budget = new Budget(Math.min(step.op === "links" ? linksLimit : stepLimit, left));
        let value = output(step, budget);
        if (value instanceof Promise) value = await value;
        delete result.error;
        result.output = value ?? null;
        if (budget.exceeded) result.cut_from = budget.length;
        break;
      } catch (error) {
        if (error instanceof NeedsFull) throw error;
        const known = error instanceof StepError;
        const message = known ? error.message : String(error?.message ?? error).toWellFormed();
        result.error = { class: known ? error.errorClass : "script", message };
        // A parsed document stays as it is.
        if (result.retries >= step.max_retries || (known && error.lasting) || parsed !== undefined) break;
      }
      result.retries += 1;
      await sleep(Math.max(0, Math.min(step.retry_delay_ms, runEnd - performance.now())));
    }
    result.completed = now();
    if (result.error?.class === "nav_timeout") break;
    if (result.error === undefined) {
      left = Math.max(0, left - JSON.stringify(result.output).length);
    } else if (step.ends_group) {
      ended.add(step.group);
    }
  }
  return JSON.stringify({ begun: runBegun, ended: now(), results });
}
