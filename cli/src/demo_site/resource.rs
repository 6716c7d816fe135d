//! What a site answers for a path, before it becomes HTTP.

use std::borrow::Cow;

use axum::body::Bytes;

/// Something that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) content_type: Cow<'static, str>,
    pub(super) body: Bytes,
    /// A quoted entity tag.
    pub(super) etag: String,
    /// An HTTP date.
    pub(super) last_modified: Option<String>,
    /// Whether a browser may use its copy without asking.
    pub(super) cacheable: bool,
}

impl Resource {
    /// A resource tagged by its content.
    pub(super) fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let etag = format!("\"{:016x}\"", fingerprint(&body));
        Self { content_type: content_type.into(), body, etag, last_modified: None, cacheable: false }
    }

    /// Lets browsers keep it.
    pub(super) fn cacheable(mut self) -> Self {
        self.cacheable = true;
        self
    }
}

/// The answer to a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Found(Resource),
    /// It has another path, given percent-encoded.
    Moved(String),
    Missing,
}

/// A number that differs for different content (FNV-1a); no protection against intent.
pub(super) fn fingerprint(content: &[u8]) -> u64 {
    content
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_follows_the_content() {
        let one = Resource::new("text/plain", "one");
        assert_eq!(one.etag, Resource::new("text/css", "one").etag);
        assert_ne!(one.etag, Resource::new("text/plain", "two").etag);
        assert_eq!(fingerprint(b"a"), 0xAF63_DC4C_8601_EC8C);
    }
}
