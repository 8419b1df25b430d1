//! SQL tokens, as far as the tracker needs them: where statements end, which words are words.
//!
//! Source: MySQL "Language Structure", MariaDB "Comment Syntax" (`/*M! … */`). Never fails: what is not understood is a
//! symbol, and an unterminated literal runs to the end of the text. What stands in `/*! … */` is read as if it ran.

/// How the session's `sql_mode` has texts read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// A backslash is just a backslash (`NO_BACKSLASH_ESCAPES`).
    pub no_escapes: bool,
    /// `"…"` is a name (`ANSI_QUOTES`).
    pub ansi_quotes: bool,
}

/// One token; slices are of the text that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a [u8]),
    /// A name without its quotes (doubled quotes stay doubled).
    Quoted(&'a [u8]),
    /// A string literal without its quotes (escapes stay as they are).
    Literal(&'a [u8]),
    /// A number.
    Number,
    /// `@name`, without the sign and without quotes.
    Variable(&'a [u8]),
    /// `@@name` or `@@scope.name`, without the signs.
    System(&'a [u8]),
    /// `;`
    End,
    /// Any other character.
    Symbol(u8),
}

impl<'a> Token<'a> {
    /// True for the unquoted word, in any case.
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(w) if w.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// What it names, if it can be a name.
    pub fn name(&self) -> Option<&'a [u8]> {
        match self {
            Token::Word(name) | Token::Quoted(name) => Some(name),
            Token::Literal(_)
            | Token::Number
            | Token::Variable(_)
            | Token::System(_)
            | Token::End
            | Token::Symbol(_) => None,
        }
    }
}

/// Iterates over the tokens of a text.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    start: usize,
    mode: Mode,
    /// Inside `/*! … */`.
    in_comment: bool,
}

impl<'a> Tokens<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a [u8], mode: Mode) -> Tokens<'a> {
        Tokens { text, at: 0, start: 0, mode, in_comment: false }
    }

    /// How texts are read.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where the last token begins.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the last token ends.
    pub fn end(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_line(&mut self) {
        self.at += self.text[self.at..].iter().take_while(|&&b| b != b'\n').count();
    }

    fn skip_blanks(&mut self) {
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, _) => self.at += 1,
                // The dashes begin a comment only before a blank or the end.
                (b'-', b'-') if self.peek(2) <= b' ' => self.skip_line(),
                (b'#', _) => self.skip_line(),
                (b'/', b'*') => self.comment(),
                (b'*', b'/') if self.in_comment => {
                    self.in_comment = false;
                    self.at += 2;
                }
                _ => return,
            }
        }
    }

    fn comment(&mut self) {
        let runs = match (self.peek(2), self.peek(3)) {
            (b'!', _) => 3,
            (b'M', b'!') => 4,
            _ => 0,
        };
        if runs > 0 {
            self.at += runs;
            self.at += self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
            self.in_comment = true;
            return;
        }
        let body = &self.text[self.at + 2..];
        let end = body.windows(2).position(|window| window == b"*/");
        self.at = end.map_or(self.text.len(), |end| self.at + 2 + end + 2);
    }

    /// Reads up to the closing `quote`; the cursor is on the opening one.
    fn until_quote(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        self.at += 1;
        let start = self.at;
        while self.at < self.text.len() {
            match self.text[self.at] {
                b'\\' if escapes => self.at += 2,
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

    fn word(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at += self.text[start..].iter().take_while(|&&b| is_word_byte(b)).count();
        &self.text[start..self.at]
    }

    fn dotted(&mut self) -> &'a [u8] {
        let start = self.at;
        let rest = self.text[start..].iter();
        self.at += rest.take_while(|&&b| is_word_byte(b) || matches!(b, b'.' | b'`')).count();
        &self.text[start..self.at]
    }

    fn variable(&mut self) -> Token<'a> {
        self.at += 1;
        match self.peek(0) {
            b'@' => {
                self.at += 1;
                Token::System(self.dotted())
            }
            b'`' => Token::Variable(self.until_quote(b'`', false)),
            quote @ (b'\'' | b'"') => Token::Variable(self.until_quote(quote, !self.mode.no_escapes)),
            _ => Token::Variable(self.dotted()),
        }
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        self.start = self.at;
        let &first = self.text.get(self.at)?;
        let escapes = !self.mode.no_escapes;
        Some(match first {
            b'\'' => Token::Literal(self.until_quote(b'\'', escapes)),
            b'"' if self.mode.ansi_quotes => Token::Quoted(self.until_quote(b'"', false)),
            b'"' => Token::Literal(self.until_quote(b'"', escapes)),
            b'`' => Token::Quoted(self.until_quote(b'`', false)),
            b'@' => self.variable(),
            b'0'..=b'9' => {
                // A name may begin with a digit.
                let word = self.word();
                let hexadecimal = word.len() > 2 && word[0] == b'0' && matches!(word[1], b'x' | b'b');
                let number = word.iter().all(|b| b.is_ascii_digit() || matches!(b, b'e' | b'E'));
                if number || hexadecimal { Token::Number } else { Token::Word(word) }
            }
            b';' => {
                self.at += 1;
                Token::End
            }
            b if is_word_byte(b) => Token::Word(self.word()),
            b => {
                self.at += 1;
                Token::Symbol(b)
            }
        })
    }
}

/// What a string literal says: `inner` is what stands between its quotes.
pub fn unescaped(inner: &[u8], quote: u8, mode: Mode) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if !mode.no_escapes => match bytes.next() {
                Some(b'0') => out.push(0),
                Some(b'b') => out.push(8),
                Some(b'n') => out.push(b'\n'),
                Some(b'r') => out.push(b'\r'),
                Some(b't') => out.push(b'\t'),
                Some(b'Z') => out.push(0x1a),
                Some(other) => out.push(other),
                None => {}
            },
            b if b == quote => {
                out.push(b);
                bytes.next();
            }
            b => out.push(b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        Tokens::new(text.as_bytes(), Mode::default()).collect()
    }

    #[test]
    fn words_names_and_literals() {
        use Token::*;
        assert_eq!(
            tokens("set `a``b`.x = 'it''s \\' ;' -- c\n# d\n, \"q\";"),
            [
                Word(b"set"),
                Quoted(b"a``b"),
                Symbol(b'.'),
                Word(b"x"),
                Symbol(b'='),
                Literal(b"it''s \\' ;"),
                Symbol(b','),
                Literal(b"q"),
                End
            ]
        );
        assert_eq!(tokens("@a:=1"), [Variable(b"a"), Symbol(b':'), Symbol(b'='), Number]);
        assert_eq!(tokens("@`x y` @@session.sql_mode"), [Variable(b"x y"), System(b"session.sql_mode")]);
        assert_eq!(tokens("1--1"), [Number, Symbol(b'-'), Symbol(b'-'), Number]);
        assert_eq!(tokens("KILL /*!50000 QUERY */ 5"), [Word(b"KILL"), Word(b"QUERY"), Number]);
        assert_eq!(tokens("/* a; */ x /*M!100100 y */"), [Word(b"x"), Word(b"y")]);
    }

    #[test]
    fn the_mode_decides_on_quotes_and_backslashes() {
        let mode = Mode { no_escapes: true, ansi_quotes: true };
        let found: Vec<_> = Tokens::new(br#"'\'; "x""#, mode).collect();
        assert_eq!(found, [Token::Literal(b"\\"), Token::End, Token::Quoted(b"x")]);
        assert_eq!(unescaped(b"a''b\\n\\'", b'\'', Mode::default()), b"a'b\n'");
        assert_eq!(unescaped(b"a\\n", b'\'', mode), b"a\\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_lexed_to_the_end(text in proptest::collection::vec(any::<u8>(), 0..300), a: bool, b: bool) {
            let mut tokens = Tokens::new(&text, Mode { no_escapes: a, ansi_quotes: b });
            while tokens.next().is_some() {}
            prop_assert_eq!(tokens.end(), text.len());
        }

        #[test]
        fn sql_like_text_ends(text in "[@a'\"`\\\\/*!M#; \n-]{0,60}") {
            let count = Tokens::new(text.as_bytes(), Mode::default()).count();
            prop_assert!(count <= text.len());
        }
    }
}
