//! `crawlify keys create`: makes a key of the REST API. Keeps nothing of it.

use std::io::Write;

use crawlify_coordinator::keys::{NewKey, Scope};

use crate::exit::{Code, Failure};

/// Makes a key.
pub(crate) fn create(scope: Scope) -> Result<Code, Failure> {
    let key = NewKey::generate(scope).map_err(|error| Failure::of(Code::Configuration, &error))?;
    let cannot = |error: std::io::Error| {
        Failure::new(Code::Configuration, format!("the key could not be written, so it is lost: {error}"))
    };
    writeln!(std::io::stdout(), "{}", key.text).map_err(cannot)?;
    let _ = writeln!(std::io::stderr(), "{}", advice(&key));
    Ok(Code::Ok)
}

/// What is to be done with it.
fn advice(key: &NewKey) -> String {
    format!(
        "This is shown once. Who asks sends it as `Authorization: Bearer KEY`.\n\
         The coordinator needs its hash, in --api-key-hash, CRAWLIFY_API_KEY_HASHES, or a line of --api-key-file:\n\n  \
         {}\n\nLogs name the key as {}. To revoke it, take the hash away and start the coordinator anew.",
        key.hash,
        key.hash.id()
    )
}
