//! Reads source as far as the tables need it: no comments, no strings, no test code, and every path
//! made absolute. It is not a parser of Rust; it knows `use` trees, `::` and matching brackets.

use std::fmt;
use std::path::Path;

/// A source file.
pub(super) struct Source {
    /// From the package's root, as in `src/cache/fill.rs`.
    pub(super) path: String,
    text: String,
    /// The text with comments, strings and test code blanked out; lines stay where they are.
    code: Vec<char>,
}

/// A path that code names, made absolute.
pub(super) struct Mention {
    pub(super) line: usize,
    segments: Vec<String>,
}

impl Mention {
    /// The module of this crate that is named.
    pub(super) fn own_module(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [root, module, ..] if root == "crate" || root == "headpond" => Some(module),
            _ => None,
        }
    }

    /// The name behind the module.
    pub(super) fn name(&self) -> &str {
        self.segments.get(2).map_or("(the module itself)", String::as_str)
    }

    /// The crate that is named, if the path starts with one.
    pub(super) fn outer_crate(&self) -> Option<&str> {
        self.segments.first().map(String::as_str).filter(|first| !["crate", "headpond"].contains(first))
    }

    /// Whether the path starts with the segments of `prefix`.
    pub(super) fn starts_with(&self, prefix: &str) -> bool {
        let wanted: Vec<&str> = prefix.split("::").collect();
        self.segments.len() >= wanted.len() && self.segments.iter().zip(wanted).all(|(have, want)| have == want)
    }
}

impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut code = without_comments_and_strings(&text.chars().collect::<Vec<_>>());
        blank_test_code(&mut code);
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Every `.rs` file below `directory`, sorted.
    pub(super) fn read_all(directory: &Path) -> Vec<Self> {
        let mut sources = Vec::new();
        let mut directories = vec![directory.to_owned()];
        let root = directory.parent().unwrap();
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let shown = path.strip_prefix(root).unwrap().display().to_string();
                    sources.push(Self::new(&shown, &std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        sources.sort_by(|one, other| one.path.cmp(&other.path));
        sources
    }

    pub(super) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// `cache::fill` for `src/cache/fill.rs`.
    pub(super) fn module(&self) -> String {
        self.path.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::")
    }

    /// Files that are modules for tests only: `#[cfg(test)] mod tests;`.
    pub(super) fn test_files(&self) -> Vec<String> {
        let text: Vec<&str> = self.text.lines().map(str::trim).collect();
        let declared = text.windows(2).filter(|lines| lines[0] == "#[cfg(test)]");
        let names = declared.filter_map(|lines| lines[1].strip_prefix("mod ")?.strip_suffix(';'));
        names.map(|name| format!("{}/{name}.rs", self.path.trim_end_matches(".rs"))).collect()
    }

    /// Every word of the code, and its line.
    pub(super) fn words(&self) -> Vec<(String, usize)> {
        tokens(&self.code).into_iter().filter(|(token, _)| is_word(token)).collect()
    }

    /// Every path of more than one segment, and every crate or module that is imported.
    pub(super) fn mentions(&self) -> Vec<Mention> {
        let tokens = tokens(&self.code);
        let module = self.module();
        let mut mentions = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let (token, line) = &tokens[at];
            if token == "use" && !matches!(tokens.get(at + 1), Some((next, _)) if next == "<") {
                at = use_tree(&tokens, at + 1, &[], &mut mentions);
            } else if is_word(token)
                && !matches!(at.checked_sub(1).and_then(|before| tokens.get(before)), Some((before, _)) if before == ".")
            {
                let mut segments = vec![token.clone()];
                while let (Some((colons, _)), Some((next, _))) = (tokens.get(at + 1), tokens.get(at + 2))
                    && colons == "::"
                    && is_word(next)
                {
                    segments.push(next.clone());
                    at += 2;
                }
                if segments.len() > 1 {
                    mentions.push(Mention { line: *line, segments });
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        mentions.into_iter().map(|mention| Mention { segments: absolute(mention.segments, &module), ..mention }).collect()
    }
}

/// `super::x` and `self::x` as seen from `module`, from the crate's root.
fn absolute(segments: Vec<String>, module: &str) -> Vec<String> {
    let mut inside: Vec<String> = if module == "lib" { Vec::new() } else { module.split("::").map(str::to_owned).collect() };
    let is_relative = |segment: &String| segment == "super" || segment == "self";
    let steps = segments.iter().take_while(|segment| is_relative(segment)).count();
    if steps == 0 {
        return segments;
    }
    for step in &segments[..steps] {
        if step == "super" {
            inside.pop();
        }
    }
    let mut path = vec!["crate".to_owned()];
    path.extend(inside);
    path.extend_from_slice(&segments[steps..]);
    path
}

/// Adds the leaves of the `use` tree at `at`; returns where it ends.
fn use_tree(tokens: &[(String, usize)], mut at: usize, before: &[String], mentions: &mut Vec<Mention>) -> usize {
    let mut segments = before.to_vec();
    let mut line = 0;
    let mut holds_group = false;
    while let Some((token, here)) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                holds_group = true;
                at += 1;
                while tokens.get(at).is_some_and(|(token, _)| token != "}") {
                    at = use_tree(tokens, at, &segments, mentions);
                    if tokens.get(at).is_some_and(|(token, _)| token == ",") {
                        at += 1;
                    }
                }
            }
            ";" | "," | "}" => break,
            "as" => at += 1,
            "::" => {}
            segment => {
                line = *here;
                segments.push(segment.to_owned());
            }
        }
        at += 1;
    }
    if !holds_group && line > 0 {
        // `{self}` names what stands before it.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        mentions.push(Mention { line, segments });
    }
    at
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
}

/// Words, `::`, and single characters, each with its line.
fn tokens(code: &[char]) -> Vec<(String, usize)> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = code.get(at) {
        let is_part = |c: &char| c.is_alphanumeric() || *c == '_';
        let length = match c {
            ':' if code.get(at + 1) == Some(&':') => 2,
            c if is_part(&c) => code[at..].iter().take_while(|c| is_part(c)).count(),
            _ => 1,
        };
        if c == '\n' {
            line += 1;
        } else if !c.is_whitespace() {
            tokens.push((code[at..at + length].iter().collect(), line));
        }
        at += length;
    }
    tokens
}

/// Comments, strings, character literals and lifetimes become blanks.
fn without_comments_and_strings(text: &[char]) -> Vec<char> {
    let mut code = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let length = opaque_length(text, at);
        if length == 0 {
            code.push(text[at]);
            at += 1;
        } else {
            let end = (at + length).min(text.len());
            code.extend(text[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// How long the comment, string, character or lifetime at `at` is; 0 if there is none.
fn opaque_length(text: &[char], at: usize) -> usize {
    let follows = |offset: usize, c: char| text.get(at + offset) == Some(&c);
    let is_part = |c: &char| c.is_alphanumeric() || *c == '_';
    let begins_word = at == 0 || !is_part(&text[at - 1]);
    match text[at] {
        '/' if follows(1, '/') => text[at..].iter().take_while(|c| **c != '\n').count(),
        '/' if follows(1, '*') => block_comment_length(&text[at..]),
        '"' => string_length(&text[at..]),
        'r' if begins_word || at > 0 && text[at - 1] == 'b' => raw_string_length(&text[at..]),
        '\'' if follows(1, '\\') => 3 + text[at + 3..].iter().take_while(|c| **c != '\'').count() + 1,
        '\'' if follows(2, '\'') => 3,
        '\'' => 1 + text[at + 1..].iter().take_while(|c| is_part(c)).count(),
        _ => 0,
    }
}

fn block_comment_length(text: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_length(text: &[char]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_length(text: &[char]) -> usize {
    let hashes = text[1..].iter().take_while(|c| **c == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut end: Vec<char> = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = &text[2 + hashes..];
    let length = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len());
    2 + hashes + length + end.len()
}

/// Blanks what stands behind `#[cfg(test)]`: up to the end of its block, or to its semicolon.
fn blank_test_code(code: &mut [char]) {
    let marker: Vec<char> = "#[cfg(test)]".chars().collect();
    let mut from = 0;
    while let Some(found) = code[from..].windows(marker.len()).position(|window| window == marker) {
        let start = from + found;
        let mut end = start + marker.len();
        let mut depth = 0_usize;
        while end < code.len() {
            match code[end] {
                '{' | '(' | '[' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                '}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                ';' if depth == 0 => break,
                _ => {}
            }
            end += 1;
        }
        let end = (end + 1).min(code.len());
        code[start..end].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
        from = end;
    }
}
