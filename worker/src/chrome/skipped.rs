//! A message of the browser that is too long to be taken: of it only both ends are kept, and its length. They tell
//! which event it was and whose, as Chrome writes its messages: the method first, the session last. Never parses what
//! is between.

/// So much of each end is kept: more than there is around the parameters of an event.
const END_BYTES: usize = 1 << 10;

/// A message that goes by.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    begin: Vec<u8>,
    end: Vec<u8>,
    bytes: u64,
}

impl Skipped {
    /// Takes the next part of it.
    pub(super) fn push(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        let missing = END_BYTES.saturating_sub(self.begin.len());
        self.begin.extend_from_slice(&part[..missing.min(part.len())]);
        self.end.extend_from_slice(&part[part.len().saturating_sub(END_BYTES)..]);
        let surplus = self.end.len().saturating_sub(END_BYTES);
        self.end.drain(..surplus);
    }

    /// How long it has been so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its method and its session, which is "" for the browser's own; `None` if it is no event but an answer.
    pub(super) fn event(&self) -> Option<(&str, &str)> {
        let begin = self.begin.strip_prefix(br#"{"method":""#)?;
        let method = &begin[..begin.iter().position(|&byte| byte == b'"')?];
        Some((std::str::from_utf8(method).ok()?, self.session().unwrap_or_default()))
    }

    /// No page can write this end: its own quotes are escaped, and parameters end with one brace more.
    fn session(&self) -> Option<&str> {
        let end = self.end.strip_suffix(br#""}"#)?;
        let (before, session) = end.split_at(end.iter().rposition(|&byte| byte == b'"')? + 1);
        let is_session = before.ends_with(br#","sessionId":""#);
        is_session.then_some(session).and_then(|session| std::str::from_utf8(session).ok())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
    use serde_json::value::RawValue;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, split};
    use tokio::time::Instant;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::chrome::connection::{Connection, Listener, MAX_MESSAGE_BYTES};

    /// Notes the events that were taken, with 0, and those that were skipped, with their lengths.
    #[derive(Default)]
    struct Notes(Mutex<Vec<(String, u64)>>);

    impl Listener for Notes {
        fn event(&self, _connection: &Connection, method: &str, _params: &RawValue) {
            self.0.lock().unwrap().push((method.to_owned(), 0));
        }

        fn skipped(&self, _connection: &Connection, method: &str, bytes: u64) {
            self.0.lock().unwrap().push((method.to_owned(), bytes));
        }
    }

    /// Writes a message that is too long, and answers its length.
    async fn write_too_long(browser: &mut DuplexStream, begin: &str, end: &str) -> u64 {
        browser.write_all(begin.as_bytes()).await.unwrap();
        browser.write_all(&vec![b'x'; MAX_MESSAGE_BYTES]).await.unwrap();
        browser.write_all(format!("{end}\0").as_bytes()).await.unwrap();
        (begin.len() + MAX_MESSAGE_BYTES + end.len()) as u64
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_skipped_and_its_listener_told_if_it_is_an_event() {
        let (ours, mut browser) = tokio::io::duplex(1 << 16);
        let (reader, writer) = split(ours);
        let tasks = TaskTracker::new();
        let connection = Connection::start(reader, writer, &tasks);
        let (notes, others) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
        connection.listen("A1", notes.clone());
        connection.listen("B2", others.clone());
        let write = async {
            // Once it is called. The first command of a line has the id 1.
            browser.read_u8().await.unwrap();
            write_too_long(&mut browser, r#"{"id":1,"result":{"x":""#, r#""},"sessionId":"A1"}"#).await;
            let begin = r#"{"method":"Network.received","params":{"data":""#;
            let skipped = write_too_long(&mut browser, begin, r#""},"sessionId":"A1"}"#).await;
            let event = r#"{"method":"Network.other","params":{},"sessionId":"A1"}"#;
            let version =
                r#"{"protocolVersion":"1","product":"P","revision":"","userAgent":"","jsVersion":""}"#;
            let rest = format!("{event}\0{{\"id\":1,\"result\":{version}}}\0");
            browser.write_all(rest.as_bytes()).await.unwrap();
            skipped
        };
        let (params, deadline) = (GetVersionParams {}, Instant::now() + Duration::from_secs(60));
        let (called, skipped) = tokio::join!(connection.call(None, &params, deadline), write);
        assert_eq!(called.unwrap().product, "P");
        let expected = [("Network.received".to_owned(), skipped), ("Network.other".to_owned(), 0)];
        assert_eq!(*notes.0.lock().unwrap(), expected);
        assert!(others.0.lock().unwrap().is_empty());
    }

    #[test]
    fn both_ends_are_known_wherever_the_parts_of_a_message_end() {
        let data = "y".repeat(5 * END_BYTES);
        let message = format!(r#"{{"method":"A.b","params":{{"data":"{data}"}},"sessionId":"C3"}}"#);
        for length in [1, 7, END_BYTES - 1, END_BYTES, END_BYTES + 1, message.len()] {
            let mut skipped = Skipped::default();
            message.as_bytes().chunks(length).for_each(|part| skipped.push(part));
            assert_eq!(skipped.event(), Some(("A.b", "C3")), "in parts of {length}");
            assert_eq!(skipped.bytes(), message.len() as u64);
            assert!(skipped.begin.len() <= END_BYTES && skipped.end.len() <= END_BYTES);
        }
    }

    #[test]
    fn what_a_page_writes_is_never_taken_for_a_session() {
        for (message, event) in [
            (r#"{"method":"A.b","params":{"sessionId":"C3"}}"#, Some(("A.b", ""))),
            (r#"{"method":"A.b","params":{"x":",\"sessionId\":\"C3\"}"}}"#, Some(("A.b", ""))),
            (r#"{"method":"A.b","params":{},"sessionId":"\",\"sessionId\":\"C3"}"#, Some(("A.b", ""))),
            (r#"{"id":1,"result":{"x":"{\"method\":\"A.b\""},"sessionId":"C3"}"#, None),
            ("", None),
        ] {
            let mut skipped = Skipped::default();
            skipped.push(message.as_bytes());
            assert_eq!(skipped.event(), event, "{message}");
        }
    }
}
