// Crawlee's PlaywrightCrawler with the work of one of our workflows. The code is what its documentation shows: links
// by `enqueueLinks`, and one `page.$$eval` a field, one after the other; a locator would wait for elements that a page
// lacks. (Asking for all fields at once made no difference that could be measured.)
'use strict';
const { PlaywrightCrawler, Configuration, log } = require('@crawlee/playwright');
const { readJob, writeResults, Clock } = require('./workflow.js');

const job = readJob();
const clock = new Clock();
const items = [];
const failures = [];

// Documented for production: logs cost time, and nobody reads these.
log.setLevel(log.LEVELS.OFF);

const configuration = new Configuration({
  // Request queue and datasets stay in memory (guides/configuration: `persistStorage`).
  persistStorage: false,
  // The default quarter of the memory would make the autoscaling hold back (`availableMemoryRatio`).
  availableMemoryRatio: 1,
});

const crawler = new PlaywrightCrawler(
  {
    // As many tabs as ours, from the start to the end (guides/scaling-crawlers): at its minimum the pool runs tasks
    // however loaded it takes the machine to be.
    minConcurrency: job.tabs,
    maxConcurrency: job.tabs,
    maxRequestsPerCrawl: job.pages ?? undefined,
    // A page that fails is to be seen, not tried again.
    maxRequestRetries: 0,
    // Sessions rotate proxies and cookies, which are not used here (guides/session-management).
    useSessionPool: false,
    persistCookiesPerSession: false,
    launchContext: {
      launchOptions: { executablePath: job.chrome, args: job.chrome_flags, headless: true },
    },
    browserPoolOptions: {
      // Making up a fingerprint for each browser takes time, and disguises what is measured (guides/avoid-blocking).
      useFingerprints: false,
      // The default is a new browser after 100 pages.
      retireBrowserAfterPageCount: 1_000_000,
    },
    preNavigationHooks: [
      async (_, gotoOptions) => {
        clock.begin();
        // What all browser peers wait for; it is the default.
        gotoOptions.waitUntil = 'load';
      },
    ],
    async requestHandler({ page, request, enqueueLinks }) {
      const data = {};
      for (const { key, selector, attribute } of job.fields) {
        data[key] = await page.$$eval(
          selector,
          ([element], name) => (name ? element?.getAttribute(name) : element?.textContent)?.trim() ?? null,
          attribute,
        );
      }
      items.push({ url: request.loadedUrl, data });
      for (const selector of job.linkSelectors) {
        await enqueueLinks({ selector, strategy: 'same-origin', exclude: job.excluded });
      }
      clock.pageDone();
    },
    failedRequestHandler({ request }, error) {
      clock.pageDone();
      failures.push(`${request.url}: ${error.message}`);
    },
  },
  configuration,
);

crawler.run([job.start_url]).then(() => {
  writeResults(job, items, { pages: items.length, failures, seconds: clock.seconds });
});
