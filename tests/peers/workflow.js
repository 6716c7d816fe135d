// Reads one of our workflow files for the Node peers: which links they follow, which fields they extract.
'use strict';
const fs = require('node:fs');

// What run.py asks of a peer: the workflow's file, where to start, how much at once, where to write to.
exports.readJob = () => {
  const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
  const { config } = JSON.parse(fs.readFileSync(job.workflow, 'utf8'));
  const discovery = config.url_discovery ?? [];
  return {
    ...job,
    linkSelectors: discovery.filter((node) => node.type === 'extract_links').map((node) => node.params.selector),
    excluded: discovery
      .filter((node) => node.type === 'filter_urls')
      .flatMap((node) => (node.params.exclude_patterns ?? []).map((pattern) => new RegExp(pattern))),
    // `attribute` is null where the text is wanted. run.py refuses workflows that say more than this.
    fields: (config.data_extraction ?? [])
      .filter((node) => node.type === 'extract')
      .map(({ output_key: key, params }) => ({
        key,
        selector: params.selector,
        attribute: params.type === 'attr' ? params.attribute : null,
      })),
  };
};

// The clock of a run: from the first request to the end of the last page.
exports.Clock = class {
  begin() {
    this.first ??= performance.now();
  }
  pageDone() {
    this.last = performance.now();
  }
  get seconds() {
    return (this.last - this.first) / 1000;
  }
};

exports.writeResults = (job, items, report) => {
  fs.writeFileSync(job.items, items.map((item) => `${JSON.stringify(item)}\n`).join(''));
  fs.writeFileSync(job.report, JSON.stringify(report));
};
