//! Values: what nodes' outputs go through between the page and the database.

use std::hint::black_box;
use std::time::Duration;

use crawlify_shared::domain::regex_dialect::compile;
use crawlify_shared::domain::storable::{parse_lossy, storable_json, storable_text};
use crawlify_shared::domain::transform::{Transform, apply_all};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use serde_json::{Value, json};

const TEXT: &str = "  A lonely lighthouse keeper finds a letter that was never meant for him.\n";
const HTML: &str =
    "<p class=\"price\">Now <b>£1,051.77</b>\n<span>(was £1,200.00)</span>,\n incl. &amp; excl. VAT</p>";
/// What the worker allows one output.
const OUTPUT_LIMIT: usize = 1 << 20;

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transforms");
    // Each is a few microseconds at most.
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(800));
    group.throughput(Throughput::Elements(1));
    let regex = |pattern: &str, replacement: &str| Transform::Regex {
        pattern: compile(pattern).expect("the pattern is right"),
        replacement: replacement.to_owned(),
    };
    let split = || json!(["A Title", "Poetry", "In stock (22 available)", "£51.77"]);
    let every: [(&str, Transform, Value); 11] = [
        ("trim", Transform::Trim, json!(TEXT)),
        ("lowercase", Transform::Lowercase, json!(TEXT)),
        ("uppercase", Transform::Uppercase, json!(TEXT)),
        ("regex", regex(r"(\w+) \((\d+) available\)", "$2 ${1}"), json!("In stock (22 available)")),
        ("replace", Transform::Replace { old: "£".to_owned(), new: String::new() }, json!("£51.77")),
        ("split", Transform::Split(" ".to_owned()), json!(TEXT)),
        ("join", Transform::Join(", ".to_owned()), split()),
        ("parse_int", Transform::ParseInt, json!(" 22 ")),
        ("parse_float", Transform::ParseFloat, json!("51.77")),
        ("clean_html", Transform::CleanHtml, json!(HTML)),
        ("extract_price", Transform::ExtractPrice, json!("Now £1,051.77 (was £1,200.00)")),
    ];
    for (name, step, value) in every {
        with_value(&mut group, name, &value, |value| step.apply(value));
    }
    let chain = [
        Transform::CleanHtml,
        Transform::Replace { old: "£".to_owned(), new: String::new() },
        regex(r"^.*?([\d,.]+).*$", "$1"),
        Transform::Trim,
        Transform::ExtractPrice,
    ];
    with_value(&mut group, "chain of five", &json!(HTML), |value| apply_all(&chain, value));
    group.finish();
    outputs(criterion);
}

/// What makes a page's outputs fit for Postgres.
fn outputs(criterion: &mut Criterion) {
    let item = json!({
        "title": "The Quiet Harbour", "price": 51.77, "currency": "GBP", "rating": "Three",
        "availability": "In stock (22 available)", "upc": "a897fe39b1053632", "description": TEXT.repeat(8),
        "images": (0..20).map(|image| format!("http://127.0.0.1:8090/media/{image}.png")).collect::<Vec<_>>(),
    });
    let text = item.to_string();
    let mut group = criterion.benchmark_group("outputs");
    group.throughput(Throughput::Elements(1));
    group.bench_function("read an item's JSON from the page", |bencher| {
        bencher.iter(|| parse_lossy(black_box(&text)));
    });
    with_value(&mut group, "make an item storable", &item, |value| storable_json(value, OUTPUT_LIMIT));
    let large = Value::from(TEXT.repeat(30_000));
    with_value(&mut group, "cut a text of 2 MB", &large, |value| storable_json(value, OUTPUT_LIMIT));
    let with_nul = TEXT.replace(' ', "\0");
    group.bench_function("make a text with NULs storable", |bencher| {
        bencher.iter(|| storable_text(black_box(&with_nul), OUTPUT_LIMIT).len());
    });
    group.finish();
}

/// Measures what consumes a value; making the copy that it consumes is not measured.
fn with_value(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    value: &Value,
    work: impl Fn(Value) -> Value,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_batched(|| value.clone(), |value| work(black_box(value)), BatchSize::SmallInput);
    });
}
