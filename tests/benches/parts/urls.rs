//! URLs: what every link of every page goes through.

use std::hint::black_box;

use crawlify_cli::demo_site::Shop;
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::url_filter::UrlFilter;
use criterion::{Criterion, Throughput};
use url::Url;

/// As links are written elsewhere, beside the demo shop's tidy ones.
const WILD: [&str; 16] = [
    "HTTP://Shop.Example:80/Catalogue/../catalogue/a-title/?id=42&utm_source=feed#reviews",
    "https://shop.example:443/",
    "https://bücher.example/straße/größe?farbe=grün&größe=42",
    "https://shop.example/search?q=a+b%20c&page=2&sort=price&order=asc&filter=in-stock&filter=new",
    "https://cdn.shop.example/media/cache/2c/da/2cdad67c44b002e7ead0cc35693c0e8b.jpg",
    "http://[2001:db8::1]:8080/a/b/c/d/e/f/g/h/index.html",
    "https://shop.example/catalogue/category/books/sequential-art_5/page-2.html",
    "https://shop.example/p/123456789?session=0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "../../media/cache/fe/72/fe72f0532301ec28892ae79a629a293c.jpg",
    "../page-3.html",
    "?page=4",
    "#top",
    "//static.shop.example/style.css",
    "/catalogue/a-light-in-the-attic_1000/index.html",
    "mailto:shop@shop.example",
    "javascript:void(0)",
];

pub(crate) fn measure(criterion: &mut Criterion) {
    let base = Url::parse("http://127.0.0.1:8090/books/page/2/").expect("it is a URL");
    let links = links();
    let urls: Vec<PageUrl> = links.iter().filter_map(|link| PageUrl::resolve(&base, link).ok()).collect();
    let texts: Vec<&str> = urls.iter().map(PageUrl::as_str).collect();
    let mut group = criterion.benchmark_group("urls");
    group.throughput(Throughput::Elements(links.len() as u64));
    group.bench_function("resolve links against a page", |bencher| {
        bencher.iter(|| {
            let resolved = links.iter().map(|link| PageUrl::resolve(&base, black_box(link)));
            resolved.filter(Result::is_ok).count()
        });
    });
    group.throughput(Throughput::Elements(texts.len() as u64));
    group.bench_function("parse and normalise", |bencher| {
        bencher.iter(|| texts.iter().filter(|text| PageUrl::parse(black_box(text)).is_ok()).count());
    });
    group.throughput(Throughput::Elements(urls.len() as u64));
    group.bench_function("hash for the frontier's key", |bencher| {
        bencher.iter(|| urls.iter().fold(0, |all, url| all ^ black_box(url).hash()[0]));
    });
    let filter = UrlFilter::new(true, &["/book", r"/page/\d+"], &[r"\.(jpg|png|css|js)$", r"[?&]sort="]);
    let filter = filter.expect("the patterns are right");
    group.bench_function("filter by host and four patterns", |bencher| {
        let keeps = |url: &&PageUrl| filter.keeps(black_box(url), &["127.0.0.1", "shop.example"]);
        bencher.iter(|| urls.iter().filter(keeps).count());
    });
    group.finish();
}

/// The links of the demo shop's products, relative and absolute, and the wild ones among them.
fn links() -> Vec<String> {
    let mut links = Vec::new();
    for (number, item) in Shop::new().expected().into_iter().enumerate() {
        links.push(if number % 2 == 0 { item.path } else { format!("http://127.0.0.1:8090{}", item.path) });
        if number % 40 == 0 {
            links.extend(WILD.map(str::to_owned));
        }
    }
    links
}
