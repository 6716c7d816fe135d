// Runs the steps of one page, in an isolated world: the page's scripts cannot reach what is used here. What they can
// do is give elements names that hide a property of `document` or of a form (`<input name="getAttribute">`), and clear
// timers by their number; therefore properties are read through prototypes, and pauses are tasks, not timers.
//
// `program` is JSON: {steps, step_limit, total_limit}; `endedGroups` are numbers. `parsed` is the document of a page that was
// fetched and not rendered; without it, the page itself is meant. The result is JSON: for each step an object, or
// null where it was not run.
async function run(program, endedGroups, parsed) {
  const { steps, step_limit: stepLimit, total_limit: totalLimit } = JSON.parse(program);
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
    if (element.localName === "noscript") return unescaped(html);
    return html.replace(/(<noscript[^>]*>)([^<]*)(?=<\/noscript>)/g, (_, tag, text) => tag + unescaped(text));
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
      if (budget.exceeded) return { truncated: true, length: nodes.length, value: values };
    }
    return values;
  }

  function single(budget, value, length) {
    return budget.exceeded ? { truncated: true, length, value } : value;
  }

  function links(selector, budget) {
    return collect(find(selector, root, true), budget, (node) => {
      const href = node instanceof Element ? attributeOf(node, "href") : textContentOf(node);
      return href === null || href.trim() === "" ? undefined : budget.keep(href);
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
    const length = step.fields.length > 0 ? 1 : readFrom(nodes[0], step.read).length;
    return single(budget, value(nodes[0]), length);
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
    const end = performance.now() + timeout;
    if (isReached(selector, state)) return;
    // Nothing will ever change in a document that no script runs in.
    if (parsed !== undefined) throw new NeedsFull(`${shown(selector)} is not ${state} in the response`);
    let changed;
    const observer = new MutationObserver(() => changed());
    observer.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
    try {
      for (;;) {
        const left = end - performance.now();
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

  function output(step, limit) {
    const budget = new Budget(limit);
    switch (step.op) {
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
        let value = output(step, Math.min(stepLimit, left));
        if (value instanceof Promise) value = await value;
        delete result.error;
        result.output = value ?? null;
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
      await sleep(step.retry_delay_ms);
    }
    result.completed = now();
    if (result.error === undefined) {
      left = Math.max(0, left - JSON.stringify(result.output).length);
    } else if (step.ends_group) {
      ended.add(step.group);
    }
  }
  return JSON.stringify(results);
}
