//! Book covers: small PNG pictures drawn from a number. They are stored uncompressed, which needs no library and
//! gives them the weight of a real shop's pictures.

use super::random::Sequence;

const COLOURS: usize = 8;

/// A cover for a number, as a PNG file of the given size in pixels.
pub(super) fn cover(number: u32, width: u32, height: u32) -> Vec<u8> {
    let mut sequence = Sequence::new(u64::from(number) ^ 0xC0_4E12);
    let palette: Vec<u8> = (0..COLOURS * 3).map(|_| (sequence.bits() >> 40) as u8).collect();
    let stripe = sequence.between(6, 18);
    let slope = sequence.between(0, 3);
    let band = (height / 5, height / 5 + height / 4);
    let border = width / 16 + 1;

    let mut pixels = Vec::with_capacity(((width + 1) * height) as usize);
    for y in 0..height {
        pixels.push(0); // The row's filter: none.
        for x in 0..width {
            let at_edge = x < border || y < border || x >= width - border || y >= height - border;
            let in_title = (band.0..band.1).contains(&y);
            pixels.push(match (at_edge, in_title) {
                (true, _) => 0,
                (false, true) => 1 + ((x / 5 + y / 7) % 2) as u8,
                (false, false) => 3 + (((x + y * slope) / stripe) % (COLOURS as u32 - 3)) as u8,
            });
        }
    }
    encode(width, height, &palette, &pixels)
}

/// Writes a PNG (ISO/IEC 15948) of 8-bit palette indexes; `rows` has each row's filter byte.
fn encode(width: u32, height: u32, palette: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 3, 0, 0, 0]); // 8 bits, palette, deflate, filter method 0, not interlaced
    chunk(&mut file, b"IHDR", &header);
    chunk(&mut file, b"PLTE", palette);
    chunk(&mut file, b"IDAT", &stored_zlib(rows));
    chunk(&mut file, b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend(name);
    file.extend(data);
    let sum = crc32(&file[start..]);
    file.extend(sum.to_be_bytes());
}

/// A zlib stream (RFC 1950) of stored blocks (RFC 1951, 3.2.4).
fn stored_zlib(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = data.chunks(0xFFFF).peekable();
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(data).to_be_bytes());
    stream
}

fn adler32(data: &[u8]) -> u32 {
    let (mut low, mut high) = (1u32, 0u32);
    for byte in data {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    (high << 16) | low
}

fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !data.iter().fold(!0, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xFF) as usize] ^ (sum >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
    }

    #[test]
    fn a_cover_is_a_png_of_its_size_and_the_same_each_time() {
        let picture = cover(7, 150, 210);
        assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"));
        assert_eq!(picture[16..24], [0, 0, 0, 150, 0, 0, 0, 210]);
        assert!(picture.ends_with(&[0xAE, 0x42, 0x60, 0x82]), "the end chunk's known checksum");
        assert_eq!(picture, cover(7, 150, 210));
        assert_ne!(picture, cover(8, 150, 210));
    }

    #[test]
    fn data_longer_than_a_block_is_split() {
        let stream = stored_zlib(&vec![1; 70_000]);
        assert_eq!(stream[2..7], [0, 0xFF, 0xFF, 0, 0]);
        assert_eq!(stream.len(), 2 + 5 + 0xFFFF + 5 + (70_000 - 0xFFFF) + 4);
    }
}
