//! Reads a sitemap or a sitemap index (<https://www.sitemaps.org/protocol.html>) event by event: what it takes in
//! memory is what it names, however long the document is.

use std::pin::Pin;
use std::task::{Context, Poll};

use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::page_url::{MAX_URL_BYTES, PageUrl};
use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::download::broken_off;

/// The longest sitemap that is read, unpacked: what its protocol allows.
pub(super) const MAX_BYTES: u64 = 50 << 20;
/// What a sitemap may name, as its protocol says.
pub(super) const MAX_URLS: usize = 50_000;
/// The longest piece of the document that is held at once, in bytes.
const MAX_EVENT_BYTES: usize = 1 << 20;
/// Elements within each other, far more than a sitemap has.
const MAX_NESTING: usize = 64;

/// What a sitemap names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) pages: Vec<PageUrl>,
    /// Of an index: further sitemaps.
    pub(super) sitemaps: Vec<PageUrl>,
    /// The first that it names beyond what it may.
    pub(super) one_too_many: Option<PageUrl>,
    /// Entries that are no URL of a page.
    pub(super) unusable: usize,
    /// How much of it was read, unpacked.
    pub(super) bytes: u64,
    /// Why it was not read to its end.
    pub(super) broken: Option<Failure>,
}

/// What a `loc` element speaks of, by the element that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Url,
    Sitemap,
    Loc,
    Other,
}

/// Reads a document. Whatever is wrong with it is said in `broken`, and what came before that counts.
pub(super) async fn parse(document: impl AsyncBufRead + Unpin) -> Named {
    let mut named = Named::default();
    let mut reader = Reader::from_reader(BoundedEvents { inner: document, left: MAX_EVENT_BYTES });
    let broken = read_events(&mut reader, &mut named).await.err();
    named.bytes = reader.buffer_position();
    // The download ends there, in the midst of something.
    let is_too_long = named.bytes > MAX_BYTES;
    let too_long = || not_a_sitemap(format!("it has more than {} MB", MAX_BYTES >> 20));
    named.broken = if is_too_long { Some(too_long()) } else { broken };
    named
}

async fn read_events<R: AsyncBufRead + Unpin>(
    reader: &mut Reader<BoundedEvents<R>>,
    named: &mut Named,
) -> Result<(), Failure> {
    let (mut buffer, mut open, mut loc) = (Vec::new(), Vec::new(), String::new());
    let mut has_root = false;
    loop {
        buffer.clear();
        reader.get_mut().left = MAX_EVENT_BYTES;
        let event = match reader.read_event_into_async(&mut buffer).await {
            Ok(event) => event,
            Err(quick_xml::Error::Io(error)) => return Err(broken_off(&error)),
            Err(error) => {
                return Err(not_a_sitemap(format!("at byte {}: {error}", reader.error_position())));
            }
        };
        let is_in_loc = open.last() == Some(&Element::Loc);
        match event {
            Event::Start(start) => {
                has_root = true;
                if open.len() >= MAX_NESTING {
                    return Err(not_a_sitemap(format!("its elements lie more than {MAX_NESTING} deep")));
                }
                open.push(element(start.local_name().as_ref()));
                loc.clear();
            }
            Event::End(_) => {
                let parent = open.len().checked_sub(2).and_then(|parent| open.get(parent).copied());
                if let (true, Some(parent)) = (is_in_loc, parent) {
                    named.add(parent, &loc)?;
                }
                open.pop();
            }
            Event::Text(text) if is_in_loc => append(&mut loc, &text),
            Event::CData(text) if is_in_loc => append(&mut loc, &text),
            Event::GeneralRef(reference) if is_in_loc => loc.extend(resolved(&reference)),
            Event::Eof if !has_root => return Err(not_a_sitemap("it is no XML document")),
            Event::Eof if !open.is_empty() => {
                return Err(not_a_sitemap("it ends before its last element does"));
            }
            Event::Eof => return Ok(()),
            _ => {}
        }
    }
}

fn not_a_sitemap(message: impl Into<String>) -> Failure {
    Failure::new(ErrorClass::NotAPage, message)
}

impl Named {
    /// Adds what a `loc` says, if there is room.
    fn add(&mut self, parent: Element, loc: &str) -> Result<(), Failure> {
        let list = match parent {
            Element::Url => &mut self.pages,
            Element::Sitemap => &mut self.sitemaps,
            // The `loc` of a picture or a film is no page.
            Element::Loc | Element::Other => return Ok(()),
        };
        if list.len() >= MAX_URLS {
            self.one_too_many = PageUrl::parse(loc).ok();
            return Err(not_a_sitemap(format!("it names more than {MAX_URLS} URLs")));
        }
        match PageUrl::parse(loc) {
            Ok(url) => list.push(url),
            Err(_) => self.unusable += 1,
        }
        Ok(())
    }
}

fn element(name: &str) -> Element {
    match name {
        "url" => Element::Url,
        "sitemap" => Element::Sitemap,
        "loc" => Element::Loc,
        _ => Element::Other,
    }
}

/// Appends text to a URL; what is too long for one is cut, and then is still too long.
fn append(loc: &mut String, text: &str) {
    let room = (2 * MAX_URL_BYTES).saturating_sub(loc.len());
    loc.push_str(&text[..text.floor_char_boundary(room)]);
}

/// The character that a reference stands for; one that is not known stands for nothing.
fn resolved(reference: &BytesRef<'_>) -> Option<String> {
    if let Ok(Some(character)) = reference.resolve_char_ref() {
        return Some(character.to_string());
    }
    resolve_predefined_entity(reference).map(str::to_owned)
}

/// A reader that fails where a single event would take too much memory.
struct BoundedEvents<R> {
    inner: R,
    /// What the event that is being read may still take.
    left: usize,
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for BoundedEvents<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.left == 0 {
            let message = format!("a text or tag of more than {MAX_EVENT_BYTES} bytes");
            return Poll::Ready(Err(std::io::Error::other(message)));
        }
        Pin::new(&mut this.inner).poll_fill_buf(context)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        Pin::new(&mut self.inner).consume(amount);
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for BoundedEvents<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(document: &str) -> Named {
        parse(document.as_bytes()).await
    }

    fn texts(urls: &[PageUrl]) -> Vec<&str> {
        urls.iter().map(PageUrl::as_str).collect()
    }

    #[tokio::test]
    async fn a_sitemap_names_pages_and_an_index_names_sitemaps() {
        let named = read(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- made by hand -->\n\
             <urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\" xmlns:image=\"http://i\">\n\
             <url><loc> http://a.test/?a=1&amp;b=&#50; </loc><lastmod>2026-01-01</lastmod>\
             <image:image><image:loc>http://a.test/p.png</image:loc></image:image></url>\
             <url><loc><![CDATA[http://a.test/c&d]]></loc></url><url><loc>/relative</loc></url>\
             <url/></urlset>",
        )
        .await;
        assert_eq!(texts(&named.pages), ["http://a.test/?a=1&b=2", "http://a.test/c&d"]);
        assert_eq!((named.unusable, named.broken), (1, None));
        let named = read(
            "<s:sitemapindex xmlns:s='http://s'><s:sitemap><s:loc>http://a.test/1.xml</s:loc></s:sitemap>\
             </s:sitemapindex>",
        )
        .await;
        assert_eq!(texts(&named.sitemaps), ["http://a.test/1.xml"]);
        assert!(named.pages.is_empty() && named.broken.is_none());
    }

    #[tokio::test]
    async fn what_is_broken_is_said_and_what_came_before_counts() {
        let start = "<urlset><url><loc>http://a.test/1</loc></url>";
        for (rest, said) in [
            ("<url><loc>http://a.test/2</url>", "at byte "),
            ("<url><loc>http://a.test/2", "ends before"),
            ("", "ends before"),
            (&*format!("<url><loc>{}", "x".repeat(MAX_EVENT_BYTES + 1)), "1048576 bytes"),
            (&*format!("<url a='{}", "x".repeat(MAX_EVENT_BYTES + 1)), "1048576 bytes"),
            (&*"<a>".repeat(MAX_NESTING + 1), "deep"),
        ] {
            let named = read(&format!("{start}{rest}")).await;
            assert_eq!(texts(&named.pages), ["http://a.test/1"]);
            let broken = named.broken.unwrap().message;
            assert!(broken.contains(said), "{broken}");
        }
        assert!(read("not found").await.broken.is_some_and(|broken| broken.message.contains("no XML")));
        assert!(read("").await.broken.is_some());
        let html = read("<!doctype html><html><body><p>404<br></body></html>").await;
        assert!(html.broken.is_some() && html.pages.is_empty());
    }

    #[tokio::test]
    async fn no_more_is_taken_than_a_sitemap_may_name() {
        let entry = "<url><loc>http://a.test/1</loc></url>";
        let named = read(&format!("<urlset>{}</urlset>", entry.repeat(MAX_URLS))).await;
        assert_eq!((named.pages.len(), named.broken), (MAX_URLS, None));
        let next = "<url><loc>http://a.test/2</loc></url><url><loc>http://a.test/3</loc></url>";
        let named = read(&format!("<urlset>{}{next}</urlset>", entry.repeat(MAX_URLS))).await;
        assert_eq!(named.pages.len(), MAX_URLS);
        assert_eq!(named.one_too_many.as_ref().map(PageUrl::as_str), Some("http://a.test/2"));
        assert!(named.broken.unwrap().message.contains("50000"));
    }

    #[tokio::test]
    async fn a_document_that_is_too_long_says_so() {
        let long = format!("<urlset>{}", format!("<url>{}</url>", " ".repeat(64 << 10)).repeat(801));
        let named = parse(&long.as_bytes()[..usize::try_from(MAX_BYTES + 1).unwrap()]).await;
        assert_eq!(named.broken.unwrap().message, "it has more than 50 MB");
    }

    #[tokio::test]
    async fn an_entity_that_stands_for_many_others_stands_for_nothing() {
        let document = "<!DOCTYPE u [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>\
             <urlset><url><loc>http://a.test/&b;x</loc></url></urlset>";
        assert_eq!(texts(&read(document).await.pages), ["http://a.test/x"]);
    }
}
