// The limit: drives Chrome over its pipe and does nothing but navigate. Each tab takes the next URL of the list, waits
// for the `load` of its main frame, and goes on; nothing is read from the pages, nothing is written. With `--corner` as
// little of its windows is painted as of ours.
'use strict';
const fs = require('node:fs');
const { spawn } = require('node:child_process');
const { Clock } = require('./workflow.js');

const PAGE_PATIENCE_MS = 60_000;

const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const clock = new Clock();
const failures = [];

// With the account and the environment that our worker gives its Chrome.
const { uid, gid, home } = job.account;
const chrome = spawn(job.chrome, job.chrome_flags, {
  ...(uid === null ? {} : { uid, gid }),
  cwd: home,
  env: { PATH: process.env.PATH, HOME: home, TMPDIR: home },
  stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
});
const ended = new Promise((resolve) => chrome.once('exit', resolve));
const [, , , commands, answers] = chrome.stdio;
const calls = new Map();
const listeners = new Map();
let lastId = 0;

// Messages are JSON, each with a NUL behind it.
let pieces = [];
answers.on('data', (bytes) => {
  for (let end; (end = bytes.indexOf(0)) >= 0; bytes = bytes.subarray(end + 1)) {
    pieces.push(bytes.subarray(0, end));
    receive(JSON.parse(Buffer.concat(pieces).toString()));
    pieces = [];
  }
  pieces.push(bytes);
});

function receive(message) {
  if (message.id === undefined) return listeners.get(message.sessionId)?.(message);
  const { resolve, reject, method } = calls.get(message.id);
  calls.delete(message.id);
  return message.error ? reject(new Error(`${method}: ${message.error.message}`)) : resolve(message.result);
}

function call(method, params = {}, sessionId = undefined) {
  const id = ++lastId;
  commands.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => calls.set(id, { resolve, reject, method }));
}

async function openTab() {
  const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await call('Target.attachToTarget', { targetId, flatten: true });
  await call('Page.enable', {}, sessionId);
  await call('Page.setLifecycleEventsEnabled', { enabled: true }, sessionId);
  if (process.argv.includes('--corner')) {
    const { cssLayoutViewport } = await call('Page.getLayoutMetrics', {}, sessionId);
    const { clientWidth: width, clientHeight: height } = cssLayoutViewport;
    const metrics = { width, height, deviceScaleFactor: 0, mobile: false, dontSetVisibleSize: true };
    await call('Emulation.setDeviceMetricsOverride', metrics, sessionId);
    await call('Emulation.setVisibleSize', { width: 16, height: 16 }, sessionId);
  }
  // The identifier of a tab's main frame is that of its target.
  return { frameId: targetId, sessionId };
}

// Navigates, and waits for `load` of the very document that the navigation made.
async function load({ frameId, sessionId }, url) {
  const loaded = new Set();
  let wanted;
  let timer;
  const done = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error('no load event in time')), PAGE_PATIENCE_MS);
    listeners.set(sessionId, ({ method, params }) => {
      if (method !== 'Page.lifecycleEvent' || params.name !== 'load' || params.frameId !== frameId) return;
      // The event may come before the answer that tells the document's identifier.
      loaded.add(params.loaderId);
      if (params.loaderId === wanted) resolve();
    });
    call('Page.navigate', { url }, sessionId).then(({ loaderId, errorText }) => {
      if (errorText !== undefined) return reject(new Error(errorText));
      wanted = loaderId;
      return loaded.has(wanted) && resolve();
    }, reject);
  });
  await done.finally(() => clearTimeout(timer));
}

async function main() {
  const urls = fs.readFileSync(job.urls, 'utf8').split('\n').filter(Boolean).slice(0, job.pages ?? undefined);
  const tabs = await Promise.all(Array.from({ length: job.tabs }, openTab));
  let [next, pages] = [0, 0];
  await Promise.all(
    tabs.map(async (tab) => {
      while (next < urls.length) {
        const url = urls[next++];
        clock.begin();
        try {
          await load(tab, url);
          pages += 1;
        } catch (error) {
          failures.push(`${url}: ${error.message}`);
        }
        clock.pageDone();
      }
    }),
  );
  const { product } = await call('Browser.getVersion');
  fs.writeFileSync(job.report, JSON.stringify({ pages, failures, seconds: clock.seconds, product }));
  await call('Browser.close');
  await ended;
}

ended.then((status) => {
  if (calls.size > 0) throw new Error(`Chrome ended with ${status} before its work was done`);
});
main().catch((error) => {
  chrome.kill('SIGKILL');
  throw error;
});
