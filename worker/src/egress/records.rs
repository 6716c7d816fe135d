//! Counts the records of TLS that a browser sends through a tunnel (RFC 8446, section 5.1). The guard cannot read the
//! requests there, but Chrome writes each in a record of its own, over HTTP/1.1 and HTTP/2: there are no more requests than
//! records. Reads nothing but their lengths.

/// The type, two bytes of an old version, and the length.
const HEAD_BYTES: usize = 5;
/// The type of records whose content is the application's.
const APPLICATION_DATA: u8 = 23;

/// Where in the records one direction of a tunnel is.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// What has come of the head of the next record.
    head: Vec<u8>,
    /// What is still to come of the present record.
    left: usize,
}

impl Records {
    /// How many records with the application's data begin in what comes next.
    pub(super) fn begun_in(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let part = (HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if let [kind, _, _, high, low] = self.head[..] {
                begun += u64::from(kind == APPLICATION_DATA);
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.head.clear();
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_however_they_are_cut() {
        let record = |kind: u8, length: u16| {
            let head = [&[kind, 3, 3][..], &length.to_be_bytes()].concat();
            [head, vec![APPLICATION_DATA; usize::from(length)]].concat()
        };
        let sent = [record(22, 300), record(23, 5), record(23, 0), record(20, 1), record(23, 700)].concat();
        for size in [1, 2, 3, 5, 7, 64, sent.len()] {
            let mut records = Records::default();
            let begun: u64 = sent.chunks(size).map(|part| records.begun_in(part)).sum();
            assert_eq!(begun, 3, "in pieces of {size}");
        }
    }
}
