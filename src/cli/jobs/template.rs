//! A command template, as GNU parallel has it: what stands for the argument is replaced, and no shell is asked.

use std::{
    borrow::Cow,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// A command with places for the argument.
#[derive(Debug)]
pub(super) struct Template {
    words: Vec<Vec<Part>>,
}

/// Text with places for the argument.
#[derive(Debug)]
pub(super) struct Label(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    /// `{}`
    Whole,
    /// `{.}`
    WithoutExtension,
    /// `{/}`
    Name,
    /// `{//}`
    Directory,
    /// `{/.}`
    NameWithoutExtension,
    /// `{#}`
    Seq,
}

const PLACES: [(&[u8], Part); 6] = [
    (b"{}", Part::Whole),
    (b"{.}", Part::WithoutExtension),
    (b"{/}", Part::Name),
    (b"{//}", Part::Directory),
    (b"{/.}", Part::NameWithoutExtension),
    (b"{#}", Part::Seq),
];

impl Template {
    /// Without a place for the argument it comes last.
    pub(super) fn new(command: Vec<OsString>) -> Template {
        let mut words: Vec<_> = command.into_iter().map(|word| parts(word.as_bytes())).collect();
        if !words.iter().flatten().any(|part| !matches!(part, Part::Text(_))) {
            words.push(vec![Part::Whole]);
        }
        Template { words }
    }

    /// The same for commands that are the same for each argument: their words, each with a zero behind it.
    pub(super) fn spelled(&self) -> Vec<u8> {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            part => PLACES.iter().find(|(_, place)| place == part).map_or(Vec::new(), |(text, _)| text.to_vec()),
        };
        self.words.iter().flat_map(|word| word.iter().flat_map(text).chain([0]).collect::<Vec<_>>()).collect()
    }

    /// The words of the command for this argument, the `seq`th job.
    pub(super) fn fill(&self, arg: &[u8], seq: u64) -> Vec<Vec<u8>> {
        self.words.iter().map(|word| fill(word, arg, seq)).collect()
    }
}

impl Label {
    pub(super) fn new(text: &str) -> Label {
        Label(parts(text.as_bytes()))
    }

    pub(super) fn fill(&self, arg: &[u8], seq: u64) -> String {
        String::from_utf8_lossy(&fill(&self.0, arg, seq)).into_owned()
    }
}

fn parts(word: &[u8]) -> Vec<Part> {
    let (mut parts, mut text, mut rest) = (Vec::new(), Vec::new(), word);
    while let [first, behind @ ..] = rest {
        match PLACES.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, part)) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part.clone());
                rest = &rest[place.len()..];
            }
            None => {
                text.push(*first);
                rest = behind;
            }
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

fn fill(parts: &[Part], arg: &[u8], seq: u64) -> Vec<u8> {
    let mut word = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => word.extend_from_slice(text),
            Part::Whole => word.extend_from_slice(arg),
            Part::WithoutExtension => word.extend_from_slice(without_extension(arg)),
            Part::Name => word.extend_from_slice(name(arg)),
            Part::Directory => word.extend_from_slice(directory(arg)),
            Part::NameWithoutExtension => word.extend_from_slice(without_extension(name(arg))),
            Part::Seq => word.extend_from_slice(seq.to_string().as_bytes()),
        }
    }
    word
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

fn without_extension(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'.') {
        Some(dot) if dot + 1 < path.len() && !path[dot..].contains(&b'/') => &path[..dot],
        _ => path,
    }
}

fn directory(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        None => b".",
        Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

/// As a shell would have to be told.
pub(super) fn quoted(words: &[Vec<u8>]) -> Vec<u8> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    let one = |word: &Vec<u8>| -> Vec<u8> {
        match word.is_empty() || !word.iter().all(is_plain) {
            false => word.clone(),
            true => {
                let inner: Vec<Cow<'_, [u8]>> = word
                    .iter()
                    .map(|byte| match byte {
                        b'\'' => Cow::Borrowed(&b"'\\''"[..]),
                        byte => Cow::Owned(vec![*byte]),
                    })
                    .collect();
                [b"'", &inner.concat()[..], b"'"].concat()
            }
        }
    };
    words.iter().map(one).collect::<Vec<_>>().join(&b' ')
}

/// The words before `:::`, and the arguments behind it.
pub(super) fn split(mut command: Vec<OsString>) -> Result<(Vec<OsString>, Option<Vec<u8>>), String> {
    let Some(at) = command.iter().position(|word| word == ":::") else { return Ok((command, None)) };
    let args = command.split_off(at).split_off(1);
    if args.iter().any(|arg| arg.as_bytes().starts_with(b":::")) {
        return Err("':::' is given more than once: give one list of arguments".to_owned());
    }
    let mut all = Vec::new();
    for arg in args {
        all.extend(arg.into_vec());
        all.push(0);
    }
    Ok((command, Some(all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(command: &[&str], arg: &str) -> String {
        let template = Template::new(command.iter().map(Into::into).collect());
        String::from_utf8(quoted(&template.fill(arg.as_bytes(), 7))).unwrap()
    }

    #[test]
    fn each_place_is_what_gnu_parallel_has_there() {
        // As GNU parallel 20221122 prints them.
        let places = ["echo", "{}", "{.}", "{/}", "{//}", "{/.}", "{#}"];
        assert_eq!(filled(&places, "dir/a.b.c"), "echo dir/a.b.c dir/a.b a.b.c dir a.b 7");
        assert_eq!(filled(&places, "/x"), "echo /x /x x / x 7");
        assert_eq!(filled(&places, "d.e/x"), "echo d.e/x d.e/x x d.e x 7");
        assert_eq!(filled(&places, "x"), "echo x x x . x 7");
    }

    #[test]
    fn a_command_is_known_whichever_way_it_is_told() {
        let spelled = |command: &[&str]| Template::new(command.iter().map(Into::into).collect()).spelled();
        assert_eq!(spelled(&["echo"]), spelled(&["echo", "{}"]));
        assert_eq!(spelled(&["a", "b{.}{}"]), b"a\0b{.}{}\0");
        assert_ne!(spelled(&["echo", "a b"]), spelled(&["echo", "a", "b"]));
    }

    #[test]
    fn an_argument_without_a_place_comes_last_and_stays_one_word() {
        assert_eq!(filled(&["gzip", "-k"], "a b"), "gzip -k 'a b'");
        assert_eq!(filled(&["echo", "{#}"], "a"), "echo 7");
        assert_eq!(filled(&["echo", "x{}y{}"], "it's"), "echo 'xit'\\''syit'\\''s'");
        assert_eq!(filled(&["echo"], ""), "echo ''");
    }
}
