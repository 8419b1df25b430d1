//! As much of Rust's grammar as the layering test needs: where comments and literals end, which items are tests, and which
//! paths a text names. It never fails: what it does not understand, it passes over.

/// Every path of two names or more, with its line; `use a::{b, c::d}` is unfolded.
pub(crate) fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_name(&tokens[at].1) && tokens.get(at + 1).is_some_and(|(_, token)| token == "::") {
            let line = tokens[at].0;
            let mut unfolded = Vec::new();
            at = unfold(&tokens, at, &[], &mut unfolded);
            found.extend(unfolded.into_iter().map(|path| (line, path)));
        } else {
            at += 1;
        }
    }
    found
}

/// Unfolds the tree that starts at `at` below `above`; returns where it ends.
fn unfold(
    tokens: &[(usize, String)],
    mut at: usize,
    above: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = above.to_vec();
    let token = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    loop {
        if token(at) == "{" {
            at += 1;
            while !matches!(token(at), "}" | "") {
                let before = at;
                at = unfold(tokens, at, &path, found);
                // `as name`, commas, and anything that is not a use tree after all.
                at += usize::from(at == before || token(at) == ",");
            }
            return at + 1;
        }
        if !is_name(token(at)) {
            break;
        }
        path.push(token(at).to_owned());
        at += 1;
        if token(at) != "::" {
            break;
        }
        at += 1;
    }
    if path.len() > above.len() {
        found.push(path);
    }
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::` and single characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if rest.starts_with("::") => 2,
                _ if first.is_alphanumeric() || first == '_' => {
                    rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len())
                }
                _ => first.len_utf8(),
            };
            tokens.push((number + 1, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Code without its test items.
pub(crate) struct TestsCut {
    pub(crate) code: String,
    /// Names of modules in files of their own (`#[cfg(test)] mod tests;`).
    pub(crate) modules: Vec<String>,
    /// How many lines they took here.
    pub(crate) lines: usize,
}

pub(crate) fn cut_tests(code: &str) -> TestsCut {
    const MARK: &str = "#[cfg(test)]";
    let mut cut = TestsCut { code: String::new(), modules: Vec::new(), lines: 0 };
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let length = item_length(&rest[start + MARK.len()..]) + MARK.len();
        let item = &rest[start..start + length];
        cut.modules.extend(
            item.strip_suffix(';')
                .and_then(|item| item.rsplit_once("mod "))
                .map(|(_, name)| name.trim().to_owned()),
        );
        let breaks = item.matches('\n').count();
        cut.lines += breaks + 1;
        cut.code.push_str(&rest[..start]);
        cut.code.push_str(&"\n".repeat(breaks));
        rest = &rest[start + length..];
    }
    cut.code.push_str(rest);
    cut
}

/// Up to the `;` or the closing brace that ends the item.
fn item_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Blanks what is not code, keeping line breaks: a name in a comment or a string is no use of it.
pub(crate) fn blank_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal_length(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            code.extend(rest[..length].chars().filter(|each| *each == '\n'));
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the comment or literal that `text` starts with, or 0.
fn literal_length(text: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|before| before.is_alphanumeric() || before == '_');
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if text.starts_with('"') {
        return quoted_length(text, '"');
    }
    if !in_word && let Some(length) = raw_string_length(text) {
        return length;
    }
    // A quote starts a character literal, unless it is a lifetime's: 'a' against 'a.
    let mut next = text.chars().skip(1);
    if text.starts_with('\'') && (next.next() == Some('\\') || next.next() == Some('\'')) {
        return quoted_length(text, '\'');
    }
    0
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, each) in text.char_indices().skip(1) {
        match each {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if each == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`, `br"…"`.
fn raw_string_length(text: &str) -> Option<usize> {
    let opening = text.strip_prefix('b').unwrap_or(text).strip_prefix('r')?;
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    let body = opening[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - body.len();
    Some(body.find(&closing).map_or(text.len(), |end| start + end + closing.len()))
}
