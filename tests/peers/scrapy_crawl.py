"""Scrapy with the work of one of our workflows: HTTP alone, or with `--playwright` through scrapy-playwright.

Both extract with `response.css`, as their documentation shows; with scrapy-playwright that reads the HTML which the
browser gave. Arguments: the file with the job that run.py wrote.
"""
import json
import sys
import time

import scrapy
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess

from workflow import read_workflow

SETTINGS = {
    # Broad crawls ("Reduce log level", "Disable cookies", "Disable retries"): each costs CPU, none is used here.
    'LOG_ENABLED': False,
    'COOKIES_ENABLED': False,
    'RETRY_ENABLED': False,
    # Breadth first, in memory (FAQ, "crawl in breadth-first order"; Broad crawls): the order that the others have.
    'DEPTH_PRIORITY': 1,
    'SCHEDULER_DISK_QUEUE': 'scrapy.squeues.PickleFifoDiskQueue',
    'SCHEDULER_MEMORY_QUEUE': 'scrapy.squeues.FifoMemoryQueue',
    # A server for debugging, which nobody talks to.
    'TELNETCONSOLE_ENABLED': False,
    # Nothing of politeness: the site is ours, and so it is with the others.
    'ROBOTSTXT_OBEY': False,
    'AUTOTHROTTLE_ENABLED': False,
    'DOWNLOAD_DELAY': 0,
    # asyncio's reactor, which is the default, and what scrapy-playwright needs.
    'TWISTED_REACTOR': 'twisted.internet.asyncioreactor.AsyncioSelectorReactor',
}


def playwright_settings(job):
    handler = 'scrapy_playwright.handler.ScrapyPlaywrightDownloadHandler'
    return {
        'DOWNLOAD_HANDLERS': {'http': handler, 'https': handler},
        'PLAYWRIGHT_LAUNCH_OPTIONS': {
            'executable_path': job['chrome'], 'args': job['chrome_flags'], 'headless': True,
        },
        # As many tabs as ours; further requests wait for one of them.
        'PLAYWRIGHT_MAX_PAGES_PER_CONTEXT': job['tabs'],
        # The browser sends its own headers, so that Scrapy's need not be put on each request of a page.
        'PLAYWRIGHT_PROCESS_REQUEST_HEADERS': None,
    }


class WorkflowSpider(scrapy.Spider):
    name = 'workflow'

    def __init__(self, job, meta):
        super().__init__()
        self.job, self.meta = job, meta
        self.workflow = read_workflow(job['workflow'])
        self.origin = job['start_url'].rstrip('/') + '/'
        self.limit = job['pages'] or float('inf')
        self.scheduled, self.visited, self.items, self.failures = set(), [], [], []
        self.first = self.last = None

    async def start(self):
        self.scheduled.add(self.job['start_url'])
        yield scrapy.Request(self.job['start_url'], meta=self.meta, errback=self.failed)

    def parse(self, response):
        data = {}
        for field in self.workflow.fields:
            element = response.css(field.selector)[:1]
            if field.attribute:
                value = element.attrib.get(field.attribute)
            else:
                # `::text` would give the first text node alone, not the element's text.
                value = element.xpath('string()').get()
            data[field.key] = value.strip() if value is not None else None
        self.items.append({'url': response.url, 'data': data})
        self.visited.append(response.url)
        for selector in self.workflow.link_selectors:
            for request in response.follow_all(css=selector, meta=self.meta, errback=self.failed):
                if self.is_wanted(request.url):
                    yield request
        self.last = time.monotonic()

    def is_wanted(self, url):
        """Whether the page is of this site, not excluded, and within the limit; Scrapy drops what it had before."""
        url = url.split('#', 1)[0]
        if url in self.scheduled or len(self.scheduled) >= self.limit or not url.startswith(self.origin):
            return False
        if any(pattern.search(url) for pattern in self.workflow.excluded):
            return False
        self.scheduled.add(url)
        return True

    def failed(self, failure):
        self.last = time.monotonic()
        self.failures.append('%s: %r' % (failure.request.url, failure.value))

    def request_begins(self, request, spider):
        if self.first is None:
            self.first = time.monotonic()


class TimedSpider(WorkflowSpider):
    @classmethod
    def from_crawler(cls, crawler, *args, **kwargs):
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.request_begins, signal=signals.request_reached_downloader)
        return spider


def main(job_file, with_playwright):
    with open(job_file, encoding='utf-8') as file:
        job = json.load(file)
    concurrency = {
        'CONCURRENT_REQUESTS': job['concurrency'], 'CONCURRENT_REQUESTS_PER_DOMAIN': job['concurrency'],
    }
    settings = SETTINGS | concurrency | (playwright_settings(job) if with_playwright else {})
    process = AsyncCrawlerProcess(settings)
    crawler = process.create_crawler(TimedSpider)
    process.crawl(crawler, job=job, meta={'playwright': True} if with_playwright else {})
    process.start()
    spider = crawler.spider
    with open(job['items'], 'w', encoding='utf-8') as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + '\n' for item in spider.items)
    report = {
        'pages': len(spider.visited), 'visited': spider.visited, 'failures': spider.failures,
        'seconds': spider.last - spider.first,
    }
    with open(job['report'], 'w', encoding='utf-8') as file:
        json.dump(report, file)


if __name__ == '__main__':
    main(sys.argv[1], '--playwright' in sys.argv[2:])
