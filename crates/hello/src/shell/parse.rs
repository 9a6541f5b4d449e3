//! Lines of the shell: words, quotes, variables, and what stands between commands (a small part of POSIX, "Shell Command Language").

use std::iter::Peekable;
use std::str::Chars;

use crate::error::Error;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The value of a variable, `$?` included; whether it is in quotes, where it isn't split into words.
    Variable {
        name: String,
        is_quoted: bool,
    },
}

/// A word before its variables are put in.
pub type Word = Vec<Piece>;

/// Where a stream of a command leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// `< FILE`
    Input(Word),
    /// `> FILE` and `>> FILE`, of output (1) or errors (2).
    Output { stream: u8, file: Word, appends: bool },
    /// `2>&1`
    ErrorsToOutput,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    pub words: Vec<Word>,
    pub redirects: Vec<Redirect>,
}

/// When a pipeline is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Always,
    /// After `&&`.
    Succeeded,
    /// After `||`.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    pub when: When,
    pub commands: Vec<Command>,
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(Word),
    /// `;` or the end of a line.
    End,
    And,
    Or,
    Pipe,
    Less,
    Greater {
        stream: u8,
        appends: bool,
    },
    ErrorsToOutput,
}

/// What a script may hold, in commands.
const MAX_COMMANDS: usize = 10_000;
/// Words that begin what this shell hasn't.
const RESERVED: [&str; 11] = ["if", "then", "else", "fi", "for", "while", "until", "do", "done", "case", "function"];

/// # Errors
/// When the text isn't whole, or has what this shell doesn't know.
pub fn parse(text: &str) -> Result<Vec<Pipeline>, Error> {
    let mut pipelines = Vec::new();
    let (mut when, mut commands, mut command) = (When::Always, Vec::new(), Command::default());
    let mut tokens = tokens(text)?.into_iter();
    let mut total = 0;
    loop {
        let token = tokens.next();
        match token {
            Some(Token::Word(word)) => {
                if command.words.is_empty()
                    && let [Piece::Text(first)] = &word[..]
                    && RESERVED.contains(&first.as_str())
                {
                    return Err(Error::syntax(format!("this small shell has no {first:?}")));
                }
                command.words.push(word);
                continue;
            }
            Some(Token::Less) => command.redirects.push(Redirect::Input(file(&mut tokens)?)),
            Some(Token::Greater { stream, appends }) => {
                command.redirects.push(Redirect::Output { stream, file: file(&mut tokens)?, appends });
            }
            Some(Token::ErrorsToOutput) => command.redirects.push(Redirect::ErrorsToOutput),
            None | Some(Token::End | Token::And | Token::Or | Token::Pipe) => {
                let is_empty = command == Command::default();
                let needs_more = !commands.is_empty() || when != When::Always;
                let may_be_empty = matches!(token, None | Some(Token::End)) && !needs_more;
                if is_empty && !may_be_empty {
                    return Err(Error::syntax("a command is missing"));
                }
                total += 1;
                if total > MAX_COMMANDS {
                    return Err(Error::syntax(format!("more than {MAX_COMMANDS} commands")));
                }
                if !is_empty {
                    commands.push(std::mem::take(&mut command));
                }
                if token == Some(Token::Pipe) {
                    continue;
                }
                if !commands.is_empty() {
                    pipelines.push(Pipeline { when, commands: std::mem::take(&mut commands) });
                }
                when = match token {
                    None => return Ok(pipelines),
                    Some(Token::And) => When::Succeeded,
                    Some(Token::Or) => When::Failed,
                    _ => When::Always,
                };
            }
        }
    }
}

fn file(tokens: &mut impl Iterator<Item = Token>) -> Result<Word, Error> {
    match tokens.next() {
        Some(Token::Word(word)) => Ok(word),
        _ => Err(Error::syntax("the name of a file is missing")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, Error> {
    let (mut chars, mut tokens) = (text.chars().peekable(), Vec::new());
    while let Some(&next) = chars.peek() {
        let has_two = |chars: &mut Peekable<Chars<'_>>, other: char| {
            chars.next();
            chars.next_if_eq(&other).is_some()
        };
        tokens.push(match next {
            ' ' | '\t' | '\r' => {
                chars.next();
                continue;
            }
            '#' => {
                while chars.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            ';' | '\n' => {
                chars.next();
                Token::End
            }
            '&' if has_two(&mut chars, '&') => Token::And,
            '&' => return Err(Error::syntax("this small shell runs nothing in the background")),
            '|' => {
                if has_two(&mut chars, '|') {
                    Token::Or
                } else {
                    Token::Pipe
                }
            }
            '<' => {
                if has_two(&mut chars, '<') {
                    return Err(Error::syntax("this small shell has no <<"));
                }
                Token::Less
            }
            '>' => greater(&mut chars, 1)?,
            '(' | ')' | '`' => return Err(Error::syntax(format!("this small shell has no {next}"))),
            _ => match word(&mut chars)? {
                Some(word) => Token::Word(word),
                None => greater(&mut chars, 2)?,
            },
        });
    }
    Ok(tokens)
}

fn greater(chars: &mut Peekable<Chars<'_>>, stream: u8) -> Result<Token, Error> {
    chars.next();
    if chars.next_if_eq(&'&').is_some() {
        return if stream == 2 && chars.next_if_eq(&'1').is_some() {
            Ok(Token::ErrorsToOutput)
        } else {
            Err(Error::syntax("of >& this small shell has 2>&1 alone"))
        };
    }
    Ok(Token::Greater { stream, appends: chars.next_if_eq(&'>').is_some() })
}

/// A word; nothing if it is the 2 of `2>`.
fn word(chars: &mut Peekable<Chars<'_>>) -> Result<Option<Word>, Error> {
    let (mut pieces, mut text, mut is_quoted) = (Word::new(), String::new(), false);
    // A pair of quotes with nothing in it is a word, too.
    let (mut had_quotes, mut is_two) = (false, false);
    while let Some(&next) = chars.peek() {
        if !is_quoted && is_two && next == '>' {
            return Ok(None);
        }
        is_two = pieces.is_empty() && text.is_empty() && !had_quotes && next == '2';
        if !is_quoted && " \t\r\n;&|<>()`".contains(next) {
            break;
        }
        chars.next();
        match next {
            '"' => {
                is_quoted = !is_quoted;
                had_quotes = true;
            }
            '\'' if !is_quoted => {
                had_quotes = true;
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err(Error::syntax("a ' isn't closed")),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) if is_quoted && !"\"\\$`".contains(c) => text.extend(['\\', c]),
                Some(c) => text.push(c),
                None => return Err(Error::syntax("the text ends after a \\")),
            },
            '`' => return Err(Error::syntax("this small shell has no `")),
            '$' => match variable(chars)? {
                Some(name) => {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Variable { name, is_quoted });
                }
                None => text.push('$'),
            },
            other => text.push(other),
        }
    }
    if is_quoted {
        return Err(Error::syntax("a \" isn't closed"));
    }
    if !text.is_empty() || had_quotes {
        pieces.push(Piece::Text(text));
    }
    Ok(Some(pieces))
}

/// The name after a `$`; nothing if none stands there.
fn variable(chars: &mut Peekable<Chars<'_>>) -> Result<Option<String>, Error> {
    if let Some(special) = chars.next_if(|c| matches!(c, '?' | '$')) {
        return Ok(Some(special.into()));
    }
    let has_braces = chars.next_if_eq(&'{').is_some();
    if chars.peek() == Some(&'(') {
        return Err(Error::syntax("this small shell has no $(…)"));
    }
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    match (has_braces, name.is_empty()) {
        (true, _) if name.is_empty() || chars.next() != Some('}') => {
            Err(Error::syntax("of ${…} this small shell has ${NAME} alone"))
        }
        (_, true) => Ok(None),
        _ => Ok(Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let parsed = parse("a 'b c' \"$D e\" && f | g >> h 2>&1 || i; j 2> /k # l").unwrap();
        let shape: Vec<_> = parsed.iter().map(|p| (p.when, p.commands.len())).collect();
        assert_eq!(shape, [(When::Always, 1), (When::Succeeded, 2), (When::Failed, 1), (When::Always, 1)]);
        let first = &parsed[0].commands[0].words;
        assert_eq!(first[1], [Piece::Text("b c".into())]);
        assert_eq!(first[2], [Piece::Variable { name: "D".into(), is_quoted: true }, Piece::Text(" e".into())]);
        assert_eq!(parsed[1].commands[1].redirects.len(), 2);
        let last = &parsed[3].commands[0];
        assert!(matches!(last.redirects[..], [Redirect::Output { stream: 2, appends: false, .. }]), "{last:?}");
        assert_eq!(parse("echo 2 12>a").unwrap()[0].commands[0].words.len(), 3);
        assert_eq!(parse(" \n;\n# nothing\n").unwrap(), []);
    }

    #[test]
    fn what_isnt_known_is_refused() {
        for bad in [
            "a &", "a |", "&& a", "a | | b", "'a", "\"a", "a >", "a > > b", "$(a)", "`a`", "(a)", "if a", "a <<b",
            "${a:-b}", "a \\", "a >&2",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"a;".repeat(MAX_COMMANDS + 1)).is_err());
    }
}
