//! A site with parts that have no end, one of each kind, and an honest shop beside them.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::Query;
use axum::http::Uri;
use axum::response::Html;
use chrono::{Datelike, Days, NaiveDate, Utc};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Pages of the shop's list.
pub const LISTS: usize = 30;
/// Products on each of them.
pub const PRODUCTS: usize = 10;

/// A running site. Dropping it ends it.
#[derive(Debug)]
pub struct TrapSite {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl TrapSite {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// There is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let router = Router::new().fallback(answer);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, _server: server }
    }

    /// The home page, which links to every trap and to the shop.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

async fn answer(uri: Uri, Query(query): Query<HashMap<String, String>>) -> Html<String> {
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<usize>().ok()).unwrap_or(0);
    let path = uri.path();
    let place = path.rsplit('/').next().and_then(|place| place.parse::<usize>().ok()).unwrap_or(0);
    let (text, links) = match path.split('/').nth(1).unwrap_or_default() {
        "" => (words(path), home()),
        "loop" => (words(path), vec!["loop/".to_owned()]),
        "calendar" => {
            let (year, month) = (number("year"), number("month"));
            let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            (words(&uri.to_string()), vec![format!("/calendar?year={year}&month={month}")])
        }
        "day" => {
            let day = Days::new(u64::try_from(place).unwrap_or(0));
            let date = NaiveDate::from_ymd_opt(2026, 1, 1).and_then(|first| first.checked_add_days(day));
            let date = date.unwrap_or_default().format("%A, %-d %B %Y");
            let visitor = 1_000_000 + place * 17;
            let text = ["an empty day", "its calendar", "its newsletter"].map(words).join(" ");
            (format!("{date}: you are visitor {visitor}. {text}"), vec![format!("/day/{}", place + 1)])
        }
        "find" => {
            let (colour, size, brand) = (number("colour"), number("size"), number("brand"));
            let find = |colour, size, brand| {
                format!("/find?colour={}&size={}&brand={}", colour % 9, size % 9, brand % 9)
            };
            let links = vec![
                find(colour + 1, size, brand),
                find(colour, size + 1, brand),
                find(colour, size, brand + 1),
            ];
            (words(&uri.to_string()), links)
        }
        "item" => (words(path), vec![item(place + 1)]),
        "shop" => {
            let page = number("page").max(1);
            let products = (0..PRODUCTS).map(|product| format!("/product/{}", page * PRODUCTS + product));
            let next = (page < LISTS).then(|| format!("/shop?page={}", page + 1));
            (words(&uri.to_string()), products.chain(next).collect())
        }
        _ => (words(path), vec!["/shop?page=1".to_owned()]),
    };
    let links = links.iter().fold(String::new(), |mut html, link| {
        let _ = write!(html, "<li><a href=\"{link}\">on</a></li>");
        html
    });
    Html(format!("<!doctype html><meta charset=utf-8><h1>{path}</h1><main>{text}</main><ul>{links}</ul>"))
}

fn home() -> Vec<String> {
    vec![
        "/loop/".to_owned(),
        format!("/calendar?year={}&month=1", Utc::now().year()),
        "/day/1".to_owned(),
        "/find?colour=0&size=0&brand=0".to_owned(),
        item(1),
        format!("/long/{}", "x".repeat(3_000)),
        "/shop?page=1".to_owned(),
    ]
}

/// The link of an item, with a session of its own.
fn item(number: usize) -> String {
    format!("/item/{number}?PHPSESSID=0123456789abcdef{number:016}")
}

/// A text of its own for each seed.
fn words(seed: &str) -> String {
    let mut state =
        seed.bytes().fold(7_u64, |state, byte| state.wrapping_mul(31).wrapping_add(u64::from(byte)));
    (0..40).fold(String::new(), |mut text, _| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(text, "w{} ", state >> 52);
        text
    })
}
