//! Says in our words why a navigation or a call failed. Decides nothing beyond the class.

use crawlify_shared::domain::outcome::{ErrorClass, Failure};

use super::connection::CallError;
use super::driver::TabError;
use super::page_load::Excess;
use super::page_state::{MAX_DIALOGS, MAX_DOCUMENTS, PageState};

/// Names of Chrome's network errors begin like these; the first that fits gives the class. The list of all names:
/// <https://source.chromium.org/chromium/chromium/src/+/main:net/base/net_error_list.h>
const CLASSES: [(&str, ErrorClass); 26] = [
    ("NAME_", ErrorClass::Dns),
    ("DNS_", ErrorClass::Dns),
    ("ICANN_NAME_COLLISION", ErrorClass::Dns),
    ("CONNECTION_REFUSED", ErrorClass::Connect),
    ("CONNECTION_TIMED_OUT", ErrorClass::Connect),
    ("CONNECTION_FAILED", ErrorClass::Connect),
    ("ADDRESS_", ErrorClass::Connect),
    ("INTERNET_DISCONNECTED", ErrorClass::NoNetwork),
    // Chrome gives up what it loads when an address of this machine comes or goes, or when the machine falls asleep.
    ("NETWORK_", ErrorClass::NoNetwork),
    ("CERT_", ErrorClass::Tls),
    ("CERTIFICATE_", ErrorClass::Tls),
    ("SSL_", ErrorClass::Tls),
    ("BAD_SSL_", ErrorClass::Tls),
    ("ECH_", ErrorClass::Tls),
    // These will be the same the next time.
    ("TOO_MANY_REDIRECTS", ErrorClass::NotAPage),
    ("UNSAFE_REDIRECT", ErrorClass::NotAPage),
    ("INVALID_REDIRECT", ErrorClass::NotAPage),
    ("UNSAFE_PORT", ErrorClass::NotAPage),
    ("DISALLOWED_URL_SCHEME", ErrorClass::NotAPage),
    ("UNKNOWN_URL_SCHEME", ErrorClass::NotAPage),
    ("INVALID_URL", ErrorClass::NotAPage),
    ("BLOCKED_BY_", ErrorClass::NotAPage),
    ("CONTENT_DECODING_", ErrorClass::NotAPage),
    ("RESPONSE_HEADERS_", ErrorClass::NotAPage),
    ("ABORTED", ErrorClass::NotAPage),
    ("FILE_", ErrorClass::NotAPage),
];

/// Translates the `errorText` of a navigation.
pub(super) fn of_navigation(error_text: &str, is_download: bool) -> Failure {
    let name = error_text.trim_start_matches("net::ERR_");
    let class = CLASSES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, class)| *class);
    // What is left says nothing of the host: a connection that was reset or closed, an empty answer.
    let class = class.unwrap_or(ErrorClass::ConnectionLost);
    let message = match (class, name) {
        (_, "ABORTED") if is_download => "the response is a download, not a page".to_owned(),
        (_, "ABORTED") => "the response has no page: it is empty, or was given up by the server".to_owned(),
        (ErrorClass::Dns, _) => format!("the host name was not resolved ({error_text})"),
        (ErrorClass::Tls, _) => format!("no secure connection ({error_text})"),
        (ErrorClass::NotAPage, "TOO_MANY_REDIRECTS") => format!("too many redirects ({error_text})"),
        (ErrorClass::NotAPage, _) => format!("the response is no page ({error_text})"),
        (_, "PROXY_CONNECTION_FAILED" | "TUNNEL_CONNECTION_FAILED") => {
            format!("no connection through the proxy ({error_text})")
        }
        (ErrorClass::Connect, _) => format!("no connection to the host ({error_text})"),
        (ErrorClass::NoNetwork, _) => {
            format!("this worker's own network is away, or was just changed ({error_text})")
        }
        _ => format!("the connection to the host was lost ({error_text})"),
    };
    Failure::new(class, message)
}

/// Whether an error text only says that a proxy made no tunnel.
pub(super) fn is_of_tunnel(error_text: &str) -> bool {
    error_text == "net::ERR_TUNNEL_CONNECTION_FAILED"
}

/// The document has more than `limit` elements.
pub(super) fn too_many_elements(limit: u64) -> Failure {
    Failure::new(ErrorClass::TooLarge, format!("the document has more than {limit} elements"))
}

/// The document is larger than `limit` bytes.
pub(super) fn too_large(limit: u64) -> Failure {
    Failure::new(ErrorClass::TooLarge, format!("the document has more than {limit} bytes"))
}

/// The page sent the browser to an address that it could not load.
pub(super) fn sent_astray() -> Failure {
    Failure::new(ErrorClass::NotAPage, "the page sent the browser to an address that could not be loaded")
}

/// Whether an error text only says that there was a response with an error status and no body of its own.
pub(super) fn is_bare_status(error_text: &str) -> bool {
    matches!(error_text, "net::ERR_HTTP_RESPONSE_CODE_FAILURE" | "net::ERR_INVALID_AUTH_CREDENTIALS")
}

/// Translates a failed call; `doing` completes "the deadline passed while ...".
pub(super) fn of_call(error: CallError, doing: &str) -> TabError {
    match error {
        CallError::Lost => browser_lost(),
        CallError::Timeout => deadline_passed(doing),
        CallError::NoPort(error) => unusable(
            ErrorClass::NoNetwork,
            format!(
                "this worker has no port left for its egress guard ({error}): raise its limit of open files, or give it fewer slots"
            ),
        ),
        CallError::Refused(message) => {
            let left =
                ["Cannot find context", "Execution context was destroyed", "Inspected target navigated"];
            let gone = [
                "Session with given id not found",
                "Target crashed",
                "Target closed",
                "No target with given id",
            ];
            let is = |starts: &[&str]| starts.iter().any(|start| message.contains(start));
            if is(&left) {
                navigated_away()
            } else if is(&gone) {
                tab_crashed()
            } else {
                unusable(ErrorClass::Internal, format!("the browser refused a command: {message}"))
            }
        }
        CallError::Translation(error) => {
            unusable(ErrorClass::Internal, format!("the browser's answer was not understood: {error}"))
        }
    }
}

/// The browser died, or there is none.
pub(super) fn browser_lost() -> TabError {
    unusable(ErrorClass::BrowserLost, "the browser died or stopped answering")
}

/// The renderer crashed, or the tab was closed.
pub(super) fn tab_crashed() -> TabError {
    unusable(
        ErrorClass::TabCrash,
        "the tab crashed, its page closed it, or was ended for its use of memory (which the log says)",
    )
}

/// The deadline passed. What the tab does now is not known, so it is closed.
pub(super) fn deadline_passed(doing: &str) -> TabError {
    unusable(ErrorClass::NavTimeout, format!("the deadline passed while {doing}"))
}

/// Why nothing more is waited for in a tab that is in this state; `None` where something may still come.
pub(super) fn of_state(state: &PageState) -> Option<TabError> {
    if let Some(excess) = state.excess {
        return Some(loads_too_much(excess));
    }
    if state.gone {
        return Some(tab_crashed());
    }
    let message = || format!("the page opened more than {MAX_DIALOGS} dialogs");
    (state.dialogs > MAX_DIALOGS).then(|| unusable(ErrorClass::Script, message()))
}

/// The page loads without end, as far as anybody can tell. Its tab was closed.
pub(super) fn loads_too_much(excess: Excess) -> TabError {
    let message = match excess {
        Excess::Requests(limit) => format!("the page made more than {limit} requests"),
        Excess::Bytes(limit) => format!("the page loaded more than {limit} bytes"),
    };
    unusable(ErrorClass::TooLarge, message)
}

/// The page sends the browser from one document to the next.
pub(super) fn too_many_documents() -> TabError {
    unusable(ErrorClass::NotAPage, format!("the page went through more than {MAX_DOCUMENTS} documents"))
}

/// The page was replaced by another one; it may stay the next time.
pub(super) fn navigated_away() -> TabError {
    TabError {
        failure: Failure::new(ErrorClass::NavTimeout, "the page navigated away while its nodes ran"),
        tab_usable: true,
    }
}

fn unusable(class: ErrorClass, message: impl Into<String>) -> TabError {
    TabError { failure: Failure::new(class, message), tab_usable: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_texts_get_the_class_that_decides_on_another_attempt() {
        for (text, class) in [
            ("net::ERR_NAME_NOT_RESOLVED", ErrorClass::Dns),
            ("net::ERR_CONNECTION_REFUSED", ErrorClass::Connect),
            ("net::ERR_CONNECTION_TIMED_OUT", ErrorClass::Connect),
            ("net::ERR_INTERNET_DISCONNECTED", ErrorClass::NoNetwork),
            ("net::ERR_NETWORK_CHANGED", ErrorClass::NoNetwork),
            ("net::ERR_EMPTY_RESPONSE", ErrorClass::ConnectionLost),
            ("net::ERR_HTTP2_PROTOCOL_ERROR", ErrorClass::ConnectionLost),
            ("net::ERR_CERT_AUTHORITY_INVALID", ErrorClass::Tls),
            ("net::ERR_SSL_PROTOCOL_ERROR", ErrorClass::Tls),
            ("net::ERR_TOO_MANY_REDIRECTS", ErrorClass::NotAPage),
            ("net::ERR_ABORTED", ErrorClass::NotAPage),
        ] {
            assert_eq!(of_navigation(text, false).class, class, "{text}");
        }
        assert!(of_navigation("net::ERR_ABORTED", true).message.contains("download"));
    }

    #[test]
    fn a_want_of_ports_is_the_workers_own_and_says_what_to_do() {
        let too_many_files = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let error = of_call(CallError::NoPort(too_many_files), "the tab was opened");
        assert_eq!(error.failure.class, ErrorClass::NoNetwork, "it costs none of the page's own attempts");
        let message = &error.failure.message;
        assert!(message.contains("Too many open files") && message.contains("raise its limit"), "{message}");
        assert!(!error.tab_usable);
    }
}
