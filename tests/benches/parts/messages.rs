//! A page's message: as it is published, and as it is read.
//!
//! Reading is measured without the look at the message's version, which is the broker's own.

use std::hint::black_box;

use crawlify_shared::broker::{MESSAGE_VERSION, PageMessage};
use crawlify_shared::domain::id::{ExecutionId, PageId};
use crawlify_shared::domain::page_url::PageUrl;
use criterion::{Criterion, Throughput};

pub(crate) fn measure(criterion: &mut Criterion) {
    let message = PageMessage {
        v: MESSAGE_VERSION,
        page_id: PageId::generate(),
        execution_id: ExecutionId::generate(),
        epoch: 3,
        url: PageUrl::parse("http://127.0.0.1:8090/book/a-title-of-usual-length-42/").expect("it is a URL"),
    };
    let bytes = serde_json::to_vec(&message).expect("a message is JSON");
    let mut group = criterion.benchmark_group("messages");
    group.throughput(Throughput::Elements(1));
    group.bench_function("write", |bencher| bencher.iter(|| serde_json::to_vec(black_box(&message))));
    group.bench_function("read", |bencher| {
        bencher.iter(|| serde_json::from_slice::<PageMessage>(black_box(&bytes)));
    });
    group.finish();
}
