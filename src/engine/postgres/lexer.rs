//! SQL tokens, as far as the tracker needs them: where statements end, which words are words.
//!
//! Source: PostgreSQL documentation, section "Lexical Structure". Never fails: what is not understood is a symbol, and
//! an unterminated literal runs to the end of the text.

/// One token; slices are of the text that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an unquoted identifier.
    Word(&'a [u8]),
    /// `"…"` without its quotes (doubled quotes stay doubled).
    Quoted(&'a [u8]),
    /// A string literal without its quotes or dollar tags (escapes stay as they are).
    Literal(&'a [u8]),
    /// A number or a `$1` parameter.
    Number,
    /// `;`
    End,
    /// Any other character.
    Symbol(u8),
}

impl Token<'_> {
    /// True for the unquoted word, in any case.
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(w) if w.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// The name that stands between quotes: doubled ones are single.
pub fn identifier(quoted: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        name.push(byte);
        if byte == b'"' {
            bytes.next();
        }
    }
    name
}

/// Iterates over the tokens of a text.
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    /// `standard_conforming_strings`: whether a backslash in `'…'` is just a backslash.
    standard_strings: bool,
}

impl<'a> Tokens<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a [u8], standard_strings: bool) -> Tokens<'a> {
        Tokens { text, at: 0, standard_strings }
    }

    /// How many bytes were read so far: after [`Token::End`], where the next statement begins.
    pub fn position(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blanks(&mut self) {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                (b'-', b'-') => self.at += self.text[self.at..].iter().take_while(|&&b| b != b'\n').count(),
                (b'/', b'*') => self.skip_block_comment(),
                _ => return,
            }
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0usize;
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.at = self.text.len();
    }

    /// Reads up to the closing `quote`; the cursor is behind the opening one.
    fn until_quote(&mut self, quote: u8, backslash: bool) -> &'a [u8] {
        let start = self.at;
        while self.at < self.text.len() {
            match self.text[self.at] {
                b'\\' if backslash => self.at += 2,
                b if b == quote && self.peek(1) == quote => self.at += 2,
                b if b == quote => {
                    self.at += 1;
                    return &self.text[start..self.at - 1];
                }
                _ => self.at += 1,
            }
        }
        self.at = self.text.len();
        &self.text[start..]
    }

    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        self.at += self.text[start..].iter().take_while(|&&b| is_word_byte(b)).count();
        let word = &self.text[start..self.at];
        let prefix = word.len() == 1 && self.peek(0) == b'\'';
        match word.first().map(u8::to_ascii_lowercase) {
            Some(b'e') if prefix => self.literal(true),
            Some(b'b' | b'x' | b'n') if prefix => self.literal(false),
            Some(b'u') if word.len() == 1 && self.peek(0) == b'&' && self.peek(1) == b'\'' => {
                self.at += 1;
                self.literal(false)
            }
            _ => Token::Word(word),
        }
    }

    fn literal(&mut self, backslash: bool) -> Token<'a> {
        self.at += 1;
        Token::Literal(self.until_quote(b'\'', backslash))
    }

    /// `$1`, `$$…$$` or `$tag$…$tag$`.
    fn dollar(&mut self) -> Token<'a> {
        let rest = &self.text[self.at..];
        let tag = rest[1..].iter().take_while(|&&b| is_word_byte(b) && b != b'$').count();
        let opens = rest.get(tag + 1) == Some(&b'$') && !rest[1].is_ascii_digit();
        if !opens {
            self.at += 1 + tag;
            return Token::Number;
        }
        let delimiter = &rest[..tag + 2];
        let body = &rest[tag + 2..];
        let end = body.windows(delimiter.len()).position(|window| window == delimiter);
        let length = end.unwrap_or(body.len());
        self.at = (self.at + delimiter.len() + length + delimiter.len()).min(self.text.len());
        Token::Literal(&body[..length])
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let &first = self.text.get(self.at)?;
        Some(match first {
            b'\'' => self.literal(!self.standard_strings),
            b'"' => {
                self.at += 1;
                Token::Quoted(self.until_quote(b'"', false))
            }
            b'$' => self.dollar(),
            b'0'..=b'9' => {
                let rest = self.text[self.at..].iter();
                self.at += rest.take_while(|&&b| b.is_ascii_alphanumeric() || b == b'_').count();
                Token::Number
            }
            b';' => {
                self.at += 1;
                Token::End
            }
            b if is_word_byte(b) => self.word(),
            b => {
                self.at += 1;
                Token::Symbol(b)
            }
        })
    }
}

/// The ranges of the statements in a text that are more than blanks and comments.
pub fn statements(text: &[u8], standard_strings: bool) -> Vec<&[u8]> {
    let mut tokens = Tokens::new(text, standard_strings);
    let (mut found, mut start, mut empty) = (Vec::new(), 0, true);
    while let Some(token) = tokens.next() {
        match token {
            Token::End => {
                if !empty {
                    found.push(&text[start..tokens.position() - 1]);
                }
                (start, empty) = (tokens.position(), true);
            }
            _ => empty = false,
        }
    }
    if !empty {
        found.push(&text[start..]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(text: &str) -> usize {
        statements(text.as_bytes(), true).len()
    }

    #[test]
    fn statements_end_where_the_server_ends_them() {
        assert_eq!(count("SELECT 1"), 1);
        assert_eq!(count("SELECT ';'; -- ;\n SELECT $a$;$a$; /* ; /* ; */ ; */"), 2);
        assert_eq!(count("SELECT E'\\';'"), 1);
        assert_eq!(count("SELECT '\\'; SELECT 2"), 2);
        assert_eq!(statements(b"SELECT '\\'; SELECT 2", false).len(), 1);
        assert_eq!(count("SELECT \"a;b\", $1; ; ;"), 1);
        assert_eq!(count(""), 0);
    }

    #[test]
    fn words_and_literals() {
        let tokens: Vec<_> = Tokens::new(b"set App.x = 'it''s' -- c", true).collect();
        assert_eq!(
            tokens,
            [
                Token::Word(b"set"),
                Token::Word(b"App"),
                Token::Symbol(b'.'),
                Token::Word(b"x"),
                Token::Symbol(b'='),
                Token::Literal(b"it''s")
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_lexed_to_the_end(text in proptest::collection::vec(any::<u8>(), 0..300), standard: bool) {
            let mut tokens = Tokens::new(&text, standard);
            while tokens.next().is_some() {}
            prop_assert_eq!(tokens.position(), text.len());
        }

        #[test]
        fn sql_like_text_ends(text in "[$a'\"\\\\/*;E \n-]{0,60}") {
            statements(text.as_bytes(), true);
        }
    }
}
