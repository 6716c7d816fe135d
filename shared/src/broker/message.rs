//! The message of a page, and how it is read from bytes that anybody may have put into the queue.

use serde::{Deserialize, Serialize};

use crate::domain::id::{ExecutionId, PageId};
use crate::domain::page_url::PageUrl;

/// The version of [`PageMessage`] that this program writes; others go to the dead queue.
pub const MESSAGE_VERSION: u32 = 1;

/// The longest message that is looked at, in bytes; longer ones go to the dead queue unread. A URL of the greatest
/// length, with every character escaped, is half of it.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What is published for a page: no configuration, no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMessage {
    /// [`MESSAGE_VERSION`].
    pub v: u32,
    /// The frontier row.
    pub page_id: PageId,
    /// The execution that it belongs to.
    pub execution_id: ExecutionId,
    /// The dispatch that this message speaks for; a claim with an older one finds nothing.
    pub epoch: i32,
    /// For people who look into the queue.
    pub url: PageUrl,
}

/// Why bytes are no page's message.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("it has {0} bytes")]
    TooLarge(usize),
    #[error("its version is {0}")]
    Version(u32),
    #[error("it is not the JSON of a page's message")]
    Malformed(#[source] serde_json::Error),
}

impl PageMessage {
    /// The message as it is published.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a page's message has only string keys and numbers")
    }

    /// Reads a message of any origin.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        /// Another version may have any other fields, so this one is read first.
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(BadMessage::TooLarge(bytes.len()));
        }
        let Versioned { v } = serde_json::from_slice(bytes).map_err(BadMessage::Malformed)?;
        if v != MESSAGE_VERSION {
            return Err(BadMessage::Version(v));
        }
        serde_json::from_slice(bytes).map_err(BadMessage::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> PageMessage {
        PageMessage {
            v: MESSAGE_VERSION,
            page_id: PageId::generate(),
            execution_id: ExecutionId::generate(),
            epoch: 3,
            url: PageUrl::parse("https://shop.test/a?b=c").unwrap(),
        }
    }

    #[test]
    fn a_message_survives_its_encoding() {
        let message = message();
        assert_eq!(PageMessage::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn fields_of_a_later_program_are_ignored() {
        let mut json: serde_json::Value = serde_json::from_slice(&message().encode()).unwrap();
        json["traceparent"] = "00-1".into();
        assert!(PageMessage::decode(json.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn what_is_no_message_is_told_apart() {
        assert!(matches!(PageMessage::decode(b""), Err(BadMessage::Malformed(_))));
        assert!(matches!(PageMessage::decode(b"\xff\xfe"), Err(BadMessage::Malformed(_))));
        assert!(matches!(PageMessage::decode(b"{\"v\":1}"), Err(BadMessage::Malformed(_))));
        assert!(matches!(PageMessage::decode(b"{\"v\":99,\"x\":1}"), Err(BadMessage::Version(99))));
        assert!(matches!(PageMessage::decode(&vec![b' '; 1 << 20]), Err(BadMessage::TooLarge(_))));
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        let nested = format!("{{\"v\":1,\"x\":{}", "[".repeat(50_000));
        assert!(matches!(PageMessage::decode(nested.as_bytes()), Err(BadMessage::Malformed(_))));
    }
}
