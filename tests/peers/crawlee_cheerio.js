// Crawlee's CheerioCrawler, HTTP alone, with the work of one of our workflows, as its documentation shows it.
'use strict';
const { CheerioCrawler, Configuration, log } = require('@crawlee/cheerio');
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

const crawler = new CheerioCrawler(
  {
    // All requests at once from the start to the end (guides/scaling-crawlers): at its minimum the pool runs tasks
    // however loaded it takes the machine to be.
    minConcurrency: job.concurrency,
    maxConcurrency: job.concurrency,
    maxRequestsPerCrawl: job.pages ?? undefined,
    // A page that fails is to be seen, not tried again.
    maxRequestRetries: 0,
    // Sessions rotate proxies and cookies, which are not used here (guides/session-management).
    useSessionPool: false,
    persistCookiesPerSession: false,
    preNavigationHooks: [
      async (_, gotOptions) => {
        clock.begin();
        // Headers that look like a browser's are made up for each request, which takes time (guides/avoid-blocking).
        gotOptions.useHeaderGenerator = false;
      },
    ],
    async requestHandler({ $, request, enqueueLinks }) {
      const data = {};
      for (const { key, selector, attribute } of job.fields) {
        const element = $(selector).first();
        const value = attribute ? element.attr(attribute) : element.length > 0 ? element.text() : undefined;
        data[key] = value?.trim() ?? null;
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
