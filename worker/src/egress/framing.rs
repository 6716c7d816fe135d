//! Where the answers on a connection in plain HTTP end, told while they go by (RFC 9112, section 6). One that is not understood, or that
//! browsers may understand otherwise, ends with its connection only. Keeps nothing but a head, or a line between two chunks, that has
//! not come as a whole.

/// A longer head is none.
const MAX_HEAD_BYTES: usize = 256 << 10;
const MAX_HEADERS: usize = 256;

/// The answers of one connection, one after the other.
#[derive(Debug, Default)]
pub(super) struct Answers {
    next: Part,
    /// What has come of a head or a line.
    begun: Vec<u8>,
    /// Whether only the head was asked for.
    is_head_all: bool,
    /// Whether the head has come as a whole.
    has_head: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// Nothing: what was asked for was answered.
    #[default]
    Nothing,
    Head,
    /// So many bytes of a body, which are the last ones.
    Body(u64),
    /// The line that says how long a chunk is.
    ChunkSize,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of line after a chunk.
    ChunkEnd,
    /// The lines after the last chunk, up to an empty one.
    Trailers,
    /// Whatever comes until the connection ends.
    Rest,
}

impl Answers {
    /// Another request was sent; `is_head_all` where it asks for a head without a body.
    pub(super) fn await_next(&mut self, is_head_all: bool) {
        // The browser, which sends it now, saw an end where none was seen here, or the server has said too much.
        self.next = if self.next == Part::Nothing { Part::Head } else { Part::Rest };
        self.is_head_all = is_head_all;
        self.has_head = false;
    }

    /// Whether the head of what was asked for has come as a whole. Of one that is not understood nobody knows whether the browser
    /// waits for more of it.
    pub(super) fn has_head(&self) -> bool {
        self.has_head
    }

    /// Whether what was asked for has come as a whole.
    pub(super) fn is_over(&self) -> bool {
        self.next == Part::Nothing
    }

    /// Follows what comes. Answers whether a document may begin there: the head of an answer ends that does not lead elsewhere.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let (mut begins, mut has_head) = (false, self.has_head);
        while !bytes.is_empty() {
            let used = match self.next {
                Part::Head => {
                    let is_head_all = self.is_head_all;
                    self.gather(bytes, end_of_head, |head| {
                        let read = read_head(head, is_head_all);
                        let (next, leads_elsewhere) = read.unwrap_or((Part::Rest, false));
                        has_head = read.is_some() && next != Part::Head;
                        begins = next != Part::Head && !leads_elsewhere;
                        next
                    })
                }
                Part::Body(left) => {
                    let used = as_many(left, bytes);
                    let left = left - used as u64;
                    self.next = if left == 0 { Part::Nothing } else { Part::Body(left) };
                    used
                }
                Part::ChunkSize => self.gather(bytes, end_of_line, read_chunk_size),
                Part::Chunk(left) => {
                    let used = as_many(left, bytes);
                    let left = left - used as u64;
                    self.next = if left == 0 { Part::ChunkEnd } else { Part::Chunk(left) };
                    used
                }
                Part::ChunkEnd => self.gather(bytes, end_of_line, read_chunk_end),
                Part::Trailers => self.gather(bytes, end_of_line, read_trailer),
                // What nobody asked for is no answer; what is asked for after it may not be told apart from it.
                Part::Nothing | Part::Rest => {
                    self.next = Part::Rest;
                    bytes.len()
                }
            };
            bytes = &bytes[used..];
        }
        self.has_head = has_head;
        begins
    }

    /// Reads a part once its end has come; answers how many of these bytes belong to it.
    fn gather(
        &mut self,
        bytes: &[u8],
        end: fn(&[u8]) -> Option<usize>,
        read: impl FnOnce(&[u8]) -> Part,
    ) -> usize {
        let before = self.begun.len();
        if before == 0
            && let Some(end) = end(bytes)
        {
            self.next = read(&bytes[..end]);
            return end;
        }
        self.begun.extend_from_slice(bytes);
        // What has been looked at already is not looked at again, but for the beginning of an end.
        let looked_at = before.saturating_sub(2);
        if let Some(end) = end(&self.begun[looked_at..]) {
            let end = looked_at + end;
            self.next = read(&self.begun[..end]);
            self.begun.clear();
            return end - before;
        }
        if self.begun.len() > MAX_HEAD_BYTES {
            self.next = Part::Rest;
            self.begun = Vec::new();
        }
        bytes.len()
    }
}

/// How many of these bytes there are in so many that are still to come.
fn as_many(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

/// Where the first empty line after another ends.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    while let Some(length) = end_of_line(&bytes[line..]) {
        line += length;
        match bytes[line..] {
            [b'\n', ..] => return Some(line + 1),
            [b'\r', b'\n', ..] => return Some(line + 2),
            _ => {}
        }
    }
    None
}

fn end_of_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// What comes after the head, and whether the browser asks for another document instead; `None` where it is not understood. Lenient
/// readings are left to browsers: where theirs was another, an answer might be taken for over that is not.
fn read_head(head: &[u8], is_head_all: bool) -> Option<(Part, bool)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    // The parser would skip empty lines before it.
    if !head.starts_with(b"HTTP/") || response.parse(head) != Ok(httparse::Status::Complete(head.len())) {
        return None;
    }
    let status = response.code?;
    let next = match status {
        101 => Part::Rest,
        100..=199 => Part::Head,
        204 | 205 | 304 => Part::Nothing,
        _ if is_head_all => Part::Nothing,
        _ => body(response.version?, response.headers),
    };
    Some((next, matches!(status, 301 | 302 | 303 | 307 | 308)))
}

/// How a body begins, by the version of HTTP/1 and its headers.
fn body(version: u8, headers: &[httparse::Header<'_>]) -> Part {
    // HTTP/1.0 knows of no chunks, and browsers believe it.
    let mut codings = values(headers, "transfer-encoding").filter(|_| version >= 1).peekable();
    if codings.peek().is_some() {
        let is_chunked = codings.all(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        return if is_chunked { Part::ChunkSize } else { Part::Rest };
    }
    let mut lengths = values(headers, "content-length");
    let length = lengths.next().filter(|first| lengths.all(|other| other == *first));
    match length.and_then(read_length) {
        Some(0) => Part::Nothing,
        Some(length) => Part::Body(length),
        None => Part::Rest,
    }
}

fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Digits alone: `parse` would take a sign as well.
fn read_length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn read_chunk_size(line: &[u8]) -> Part {
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((_, 0))) => Part::Trailers,
        Ok(httparse::Status::Complete((_, size))) => Part::Chunk(size),
        _ => Part::Rest,
    }
}

fn read_chunk_end(line: &[u8]) -> Part {
    if is_empty(line) { Part::ChunkSize } else { Part::Rest }
}

fn read_trailer(line: &[u8]) -> Part {
    if is_empty(line) { Part::Nothing } else { Part::Trailers }
}

fn is_empty(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaiting(is_head_all: bool) -> Answers {
        let mut answers = Answers::default();
        answers.await_next(is_head_all);
        answers
    }

    /// Whether an answer is over with its last byte, however it is cut; it must not be before.
    fn is_whole(answer: &str, is_head_all: bool) -> bool {
        let verdicts = [1, 2, 3, 7, 64, answer.len()].map(|size| {
            let mut answers = awaiting(is_head_all);
            let mut parts = answer.as_bytes().chunks(size).peekable();
            while let Some(part) = parts.next() {
                answers.follow(part);
                assert!(parts.peek().is_none() || !answers.is_over(), "{answer:?} in pieces of {size}");
            }
            answers.is_over()
        });
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{answer:?}: {verdicts:?}");
        verdicts[0]
    }

    #[test]
    fn an_answer_is_over_with_its_last_byte_however_it_is_cut() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200\ncontent-length:5\n\nhello",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 3\r\n\r\n\
             5;name=value\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ] {
            assert!(is_whole(answer, false), "{answer:?}");
        }
        assert!(is_whole("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", true));
    }

    #[test]
    fn an_answer_that_has_not_come_as_a_whole_or_has_no_end_that_all_agree_on_is_not_over() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx",
            "HTTP/1.1 200 OK\r\n\r\nuntil the connection ends",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &format!("{chunked}5\r\nhello\r\n0\r\n"),
            &format!("{chunked}5\r\nhello!\r\n0\r\n\r\n"),
            &format!("{chunked}0x0\r\n\r\n"),
            "\r\n\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "<h1>as servers answered in 1991</h1>",
        ] {
            assert!(!is_whole(answer, false), "{answer:?}");
        }
    }

    #[test]
    fn each_request_has_its_answer_until_a_server_says_more_than_it_was_asked_for() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let mut answers = awaiting(false);
        for _ in 0..3 {
            answers.follow(whole);
            assert!(answers.is_over());
            answers.await_next(false);
            assert!(!answers.is_over());
        }
        answers.follow(whole);
        answers.follow(b"H");
        answers.await_next(false);
        answers.follow(&whole[1..]);
        answers.follow(whole);
        assert!(!answers.is_over(), "whatever the browser made of that");
        let mut asked_twice = awaiting(false);
        asked_twice.await_next(false);
        asked_twice.follow(whole);
        assert!(!asked_twice.is_over());
    }

    #[test]
    fn a_document_begins_with_the_end_of_a_head_that_leads_nowhere_else() {
        let mut answers = awaiting(false);
        assert!(!answers.follow(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"));
        assert!(answers.follow(b"Content-Length: 5\r\n\r\nhel"));
        assert!(!answers.follow(b"lo"));
        answers.await_next(false);
        assert!(!answers.follow(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"));
        answers.await_next(false);
        assert!(answers.follow(b"what is no head\n\n"), "which may be one to the browser");
    }

    #[test]
    fn a_head_has_come_with_its_end_and_one_that_is_not_understood_never_has() {
        let mut answers = awaiting(false);
        for part in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le"] {
            answers.follow(part.as_bytes());
            assert!(!answers.has_head(), "{part:?}");
        }
        for part in ["ngth: 2\r\n\r\n", "o", "k"] {
            answers.follow(part.as_bytes());
            assert!(answers.has_head(), "{part:?}");
        }
        answers.await_next(false);
        assert!(!answers.has_head(), "it is another's");
        answers.follow(b"ab\n\n");
        assert!(!answers.has_head(), "the browser waits for more of it");
    }

    #[test]
    fn a_head_without_end_is_not_kept() {
        let mut answers = awaiting(false);
        answers.follow(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..=MAX_HEAD_BYTES / 16 {
            answers.follow(b"Name: a value.\r\n");
        }
        assert!(answers.begun.is_empty() && !answers.is_over());
    }
}
