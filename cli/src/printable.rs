//! Text from pages, workflows and other programs, made fit for one line of a terminal: it cannot move the cursor,
//! change colours, or turn the direction of writing. It changes nothing of how our own text is shown.

/// One line of at most `most` characters; what is longer ends with an ellipsis.
pub fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut length = 0;
    for letter in text.chars().map(harmless) {
        // White space runs together, so that a message spread over lines stays readable.
        if letter == ' ' && (line.is_empty() || line.ends_with(' ')) {
            continue;
        }
        if length == most {
            line.pop();
            line.push('…');
            return line;
        }
        line.push(letter);
        length += 1;
    }
    line.truncate(line.trim_end().len());
    line
}

fn harmless(letter: char) -> char {
    match letter {
        _ if letter.is_whitespace() => ' ',
        '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => '\u{FFFD}',
        _ if letter.is_control() => '\u{FFFD}',
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_direction_marks_lose_their_force() {
        assert_eq!(one_line("a\u{1b}[31mb\u{202E}c\0", 80), "a\u{FFFD}[31mb\u{FFFD}c\u{FFFD}");
    }

    #[test]
    fn several_lines_become_one() {
        assert_eq!(one_line("  one\r\n\ttwo \n", 80), "one two");
    }

    #[test]
    fn long_text_is_cut_by_characters() {
        assert_eq!(one_line("éééééé", 4), "ééé…");
        assert_eq!(one_line("éééé", 4), "éééé");
    }
}
