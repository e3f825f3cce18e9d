//! Parses expressions by Jinja's grammar and writes them for the engine.
//!
//! The engine knows no operators on our values (dates, `'%s' % x`), so operators become filters with reserved
//! names: `a + b` is written `a|__add(b)`. A chain of filters needs no parentheses, so the text never nests deeper
//! than the source. Each function is one rule of the grammar, loosest first.

use super::super::py::put;
use super::tokens::{Kind, Tag, Token, decode, encode, plain_int};
use super::{Fault, Named, Used};

/// How long an expression may chain, as in `a ~ b ~ c`: the engine compiles a chain by recursion.
const MAX_HEIGHT: usize = 120;
/// How deep brackets may nest: a level takes about 20 KiB of stack in a debug build, here and again in the engine.
const MAX_NESTING: usize = 40;

/// Written text, and what may follow it.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) text: String,
    /// Whether `.name`, `[..]` and `(..)` bind to all of `text` without parentheses.
    primary: bool,
    height: usize,
}

pub(super) struct Parser<'t, 'a, 'u> {
    tokens: &'t [Token<'a>],
    at: usize,
    depth: usize,
    end_line: usize,
    conditional: bool,
    used: &'u mut Used,
}

type Written = Result<Out, Fault>;

impl<'t, 'a, 'u> Parser<'t, 'a, 'u> {
    pub(super) fn new(tag: &'t Tag<'a>, start_line: usize, conditional: bool, used: &'u mut Used) -> Self {
        let end_line = tag.tokens.last().map_or(start_line, |t| t.line);
        Self { tokens: &tag.tokens, at: 0, depth: 0, end_line, conditional, used }
    }

    pub(super) fn peek(&self) -> Option<&'t Token<'a>> {
        self.tokens.get(self.at)
    }

    pub(super) fn next(&mut self) -> Result<&'t Token<'a>, Fault> {
        let token = self.peek().ok_or_else(|| Fault::syntax(self.end_line, "the tag ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        self.peek().is_some_and(|t| t.kind == Kind::Op && t.text == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        self.peek().is_some_and(|t| t.kind == Kind::Name && t.text == name)
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == self.tokens.len()
    }

    pub(super) fn line(&self) -> usize {
        self.peek().map_or(self.end_line, |t| t.line)
    }

    /// Takes the next token, which must be the operator `op`, and returns it with its white space.
    pub(super) fn expect_op(&mut self, op: &str) -> Result<String, Fault> {
        let token = self.next()?;
        if token.kind != Kind::Op || token.text != op {
            return Err(Fault::syntax(token.line, format!("expected `{op}`, found `{}`", token.text)));
        }
        Ok(format!("{}{}", token.space, token.text))
    }

    pub(super) fn expect_name(&mut self) -> Result<&'t Token<'a>, Fault> {
        let token = self.next()?;
        if token.kind != Kind::Name {
            return Err(Fault::syntax(token.line, format!("expected a name, found `{}`", token.text)));
        }
        Ok(token)
    }

    pub(super) fn finish(&self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(token) => Err(Fault::syntax(token.line, format!("unexpected `{}`", token.text))),
        }
    }

    /// Everything that is left, unchanged.
    pub(super) fn verbatim(&mut self) -> String {
        let rest = self.tokens[self.at..].iter().map(|t| [t.space, t.text].concat()).collect();
        self.at = self.tokens.len();
        rest
    }

    fn higher(&self, heights: &[usize]) -> Result<usize, Fault> {
        let height = heights.iter().max().copied().unwrap_or(0) + 1;
        if height > MAX_HEIGHT {
            return Err(Fault::limit(
                self.line(),
                format!("the expression chains more than {MAX_HEIGHT} operations"),
            ));
        }
        Ok(height)
    }

    /// `a, b`: an expression, or a tuple without parentheses.
    pub(super) fn tuple(&mut self, conditional: bool) -> Written {
        let first = if conditional { self.expr()? } else { self.or()? };
        if !self.is_op(",") {
            return Ok(first);
        }
        let (mut text, mut height) = (format!("({}", first.text), first.height);
        while self.is_op(",") {
            text += &self.expect_op(",")?;
            if self.peek().is_none_or(|t| t.kind == Kind::Op && matches!(t.text, "=" | ")"))
                || self.is_name("if")
            {
                break;
            }
            let item = if conditional { self.expr()? } else { self.or()? };
            text += &item.text;
            height = height.max(item.height);
        }
        Ok(Out { text: text + ")", primary: true, height: self.higher(&[height])? })
    }

    /// `a if b else c`.
    pub(super) fn expr(&mut self) -> Written {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(Fault::limit(self.line(), format!("brackets nest deeper than {MAX_NESTING} levels")));
        }
        let (filters, tests) = (self.used.filters.len(), self.used.tests.len());
        let mut left = self.or()?;
        while self.is_name("if") {
            let word = self.next()?;
            self.used.filters[filters..].iter_mut().for_each(|filter| filter.conditional = true);
            self.used.tests[tests..].iter_mut().for_each(|test| test.conditional = true);
            let condition = self.or()?;
            let mut text = format!("{}{}if{}", left.text, word.space, condition.text);
            let mut height = left.height.max(condition.height);
            if self.is_name("else") {
                let word = self.next()?;
                let other = self.expr()?;
                put(&mut text, format_args!("{}else{}", word.space, other.text));
                height = height.max(other.height);
            }
            left = Out { text, primary: false, height: self.higher(&[height])? };
        }
        self.depth -= 1;
        Ok(left)
    }

    pub(super) fn or(&mut self) -> Written {
        self.words("or", Self::and)
    }

    fn and(&mut self) -> Written {
        self.words("and", Self::not)
    }

    fn words(&mut self, word: &str, operand: fn(&mut Self) -> Written) -> Written {
        let mut left = operand(self)?;
        while self.is_name(word) {
            let token = self.next()?;
            let right = operand(self)?;
            let height = self.higher(&[left.height, right.height])?;
            left = Out {
                text: format!("{}{}{word}{}", left.text, token.space, right.text),
                primary: false,
                height,
            };
        }
        Ok(left)
    }

    fn not(&mut self) -> Written {
        if !self.is_name("not") {
            return self.compare();
        }
        let token = self.next()?;
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(Fault::limit(token.line, "too many `not` in a row"));
        }
        let operand = self.not()?;
        self.depth -= 1;
        let height = self.higher(&[operand.height])?;
        Ok(Out { text: format!("{}not{}", token.space, operand.text), primary: false, height })
    }

    fn comparison(&self) -> Option<&'static str> {
        let token = self.peek()?;
        let following = self.tokens.get(self.at + 1);
        match (token.kind, token.text) {
            (Kind::Op, "==") => Some("=="),
            (Kind::Op, "!=") => Some("!="),
            (Kind::Op, "<") => Some("__lt"),
            (Kind::Op, "<=") => Some("__le"),
            (Kind::Op, ">") => Some("__gt"),
            (Kind::Op, ">=") => Some("__ge"),
            (Kind::Name, "in") => Some("__in"),
            (Kind::Name, "not") if following.is_some_and(|t| t.text == "in") => Some("__not_in"),
            _ => None,
        }
    }

    /// `a < b`; a chain `a < b < c` becomes `a < b and b < c`.
    fn compare(&mut self) -> Written {
        let first = self.sum()?;
        if self.comparison().is_none() {
            return Ok(first);
        }
        let mut height = first.height;
        let mut left = first.text;
        let mut links: Vec<String> = Vec::new();
        while let Some(op) = self.comparison() {
            let mut space = self.next()?.space.to_owned();
            if op == "__not_in" {
                space += self.next()?.space;
            }
            let right = self.sum()?;
            height = height.max(right.height);
            links.push(match op {
                "==" | "!=" => format!("{left}{space}{op}{}", spaced(&right.text)),
                _ => format!("{left}{space}|{op}({})", right.text),
            });
            // The operand appears again in the next link; its lines must not.
            left = format!(" {}", right.text.replace('\n', " "));
        }
        let height = self.higher(&[height, links.len()])?;
        let text = if links.len() == 1 { links.remove(0) } else { format!("({})", links.join(" and ")) };
        Ok(Out { text, primary: false, height })
    }

    fn chain(&mut self, ops: &[(&str, &str)], operand: fn(&mut Self) -> Written) -> Written {
        let mut left = operand(self)?;
        while let Some((_, filter)) = ops.iter().find(|(op, _)| self.is_op(op)) {
            let space = self.next()?.space;
            let right = operand(self)?;
            let height = self.higher(&[left.height, right.height])?;
            let text = format!("{}{space}|{filter}({})", left.text, right.text);
            left = Out { text, primary: false, height };
        }
        Ok(left)
    }

    fn sum(&mut self) -> Written {
        self.chain(&[("+", "__add"), ("-", "__sub")], Self::concat)
    }

    fn concat(&mut self) -> Written {
        self.chain(&[("~", "__concat")], Self::product)
    }

    fn product(&mut self) -> Written {
        self.chain(&[("*", "__mul"), ("//", "__floordiv"), ("/", "__div"), ("%", "__mod")], Self::power)
    }

    fn power(&mut self) -> Written {
        self.chain(&[("**", "__pow")], |p| p.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Written {
        let sign = self.peek().filter(|t| t.kind == Kind::Op).map(|t| t.text);
        let mut out = if let Some("-" | "+") = sign {
            let token = self.next()?;
            self.depth += 1;
            if self.depth > MAX_NESTING {
                return Err(Fault::limit(token.line, "too many signs in a row"));
            }
            let operand = self.unary(false)?;
            self.depth -= 1;
            let filter = if token.text == "-" { "__neg" } else { "__pos" };
            let height = self.higher(&[operand.height])?;
            Out { text: format!("{}{}|{filter}", token.space, operand.text), primary: false, height }
        } else {
            let primary = self.primary()?;
            self.postfix(primary)?
        };
        if with_filter {
            out = self.filters(out)?;
        }
        Ok(out)
    }

    fn primary(&mut self) -> Written {
        let token = self.next()?;
        let text = match (token.kind, token.text) {
            (Kind::Name, "and" | "or" | "if" | "else" | "in" | "is" | "not") => {
                return Err(Fault::syntax(token.line, format!("unexpected `{}`", token.text)));
            }
            (Kind::Name, name) => {
                if self.is_asked_about() {
                    self.used.optional.push(name.to_owned());
                }
                format!("{}{name}", token.space)
            }
            (Kind::Int, digits) => format!("{}{}", token.space, plain_int(digits)),
            (Kind::Float, digits) => format!("{}{}", token.space, digits.replace('_', "")),
            (Kind::Str, _) => self.strings(token)?,
            (Kind::Op, "(") => return self.parenthesised(token.space),
            (Kind::Op, "[") => return self.list(token.space),
            (Kind::Op, "{") => return self.dict(token.space),
            (Kind::Op, _) => return Err(Fault::syntax(token.line, format!("unexpected `{}`", token.text))),
        };
        Ok(Out { text, primary: true, height: 1 })
    }

    /// Whether `| default` or `is defined` follows.
    fn is_asked_about(&self) -> bool {
        let word = |ahead: usize| self.tokens.get(self.at + ahead).map_or("", |t| t.text);
        match (word(0), word(1), word(2)) {
            ("|", "default" | "d", _) | ("is", "defined" | "undefined", _) => true,
            ("is", "not", test) => matches!(test, "defined" | "undefined"),
            _ => false,
        }
    }

    /// String literals in a row are one string.
    fn strings(&mut self, first: &'t Token<'a>) -> Result<String, Fault> {
        let bad = |t: &Token<'_>| Fault::syntax(t.line, format!("bad escape in the string {}", t.text));
        let mut text = decode(first.text).ok_or_else(|| bad(first))?;
        let mut lines = first.text.matches('\n').count();
        while let Some(more) = self.peek().filter(|t| t.kind == Kind::Str) {
            text += &decode(more.text).ok_or_else(|| bad(more))?;
            lines += more.text.matches('\n').count() + more.space.matches('\n').count();
            self.at += 1;
        }
        Ok(format!("{}{}", first.space, encode(&text, lines)))
    }

    fn parenthesised(&mut self, space: &str) -> Written {
        if self.is_op(")") {
            let close = self.expect_op(")")?;
            return Ok(Out { text: format!("{space}({close}"), primary: true, height: 1 });
        }
        let first = self.expr()?;
        let (mut text, mut height) = (format!("{space}({}", first.text), first.height);
        while self.is_op(",") {
            text += &self.expect_op(",")?;
            if self.is_op(")") {
                break;
            }
            let item = self.expr()?;
            text += &item.text;
            height = height.max(item.height);
        }
        text += &self.expect_op(")")?;
        Ok(Out { text, primary: true, height: self.higher(&[height])? })
    }

    fn list(&mut self, space: &str) -> Written {
        let (mut text, mut height) = (format!("{space}["), 0);
        while !self.is_op("]") {
            let item = self.expr()?;
            text += &item.text;
            height = height.max(item.height);
            if !self.is_op("]") {
                text += &self.expect_op(",")?;
            }
        }
        text += &self.expect_op("]")?;
        Ok(Out { text: text + "|__mutable", primary: false, height: self.higher(&[height])? })
    }

    fn dict(&mut self, space: &str) -> Written {
        let (mut text, mut height) = (format!("{space}{{"), 0);
        while !self.is_op("}") {
            let key = self.expr()?;
            text += &key.text;
            text += &self.expect_op(":")?;
            let value = self.expr()?;
            text += &value.text;
            height = height.max(key.height).max(value.height);
            if !self.is_op("}") {
                text += &self.expect_op(",")?;
            }
        }
        text += &spaced(&self.expect_op("}")?);
        Ok(Out { text: text + "|__mutable", primary: false, height: self.higher(&[height])? })
    }

    fn postfix(&mut self, mut out: Out) -> Written {
        loop {
            out = if self.is_op(".") {
                self.attribute(&out)?
            } else if self.is_op("[") {
                self.subscript(&out)?
            } else if self.is_op("(") {
                self.call(&out)?
            } else {
                return Ok(out);
            };
        }
    }

    fn attribute(&mut self, out: &Out) -> Written {
        let dot = self.expect_op(".")?;
        let token = self.next()?;
        let height = self.higher(&[out.height])?;
        match token.kind {
            Kind::Name if token.text.starts_with("__") => {
                let text = format!("{}|__internal({:?})", out.text, token.text);
                Ok(Out { text, primary: false, height })
            }
            Kind::Name => {
                let text = format!("{}{dot}{}{}", bound(out), token.space, token.text);
                Ok(Out { text, primary: true, height })
            }
            Kind::Int => {
                Ok(Out { text: format!("{}[{}]", bound(out), plain_int(token.text)), primary: true, height })
            }
            _ => Err(Fault::syntax(token.line, format!("expected a name, found `{}`", token.text))),
        }
    }

    fn subscript(&mut self, out: &Out) -> Written {
        let open = self.expect_op("[")?;
        let mut parts: Vec<Option<Out>> = vec![None];
        let mut lines = String::new();
        while !self.is_op("]") {
            if self.is_op(":") {
                lines += self.next()?.space;
                parts.push(None);
            } else if parts.last().is_some_and(Option::is_none) {
                let part = self.tuple(true)?;
                *parts.last_mut().expect("there is always one part") = Some(part);
            } else {
                return Err(Fault::syntax(self.line(), "unexpected end of subscript"));
            }
        }
        let close = self.expect_op("]")?;
        let heights: Vec<usize> = parts.iter().flatten().map(|p| p.height).chain([out.height]).collect();
        let height = self.higher(&heights)?;
        match parts.as_slice() {
            [None] => Err(Fault::syntax(self.line(), "an empty subscript")),
            [Some(key)] => {
                Ok(Out { text: format!("{}{open}{}{close}", bound(out), key.text), primary: true, height })
            }
            [_, _] | [_, _, _] => {
                let part = |p: Option<&Option<Out>>| {
                    p.and_then(Option::as_ref).map_or_else(|| "none".to_owned(), |p| p.text.clone())
                };
                let (from, to, step) = (part(parts.first()), part(parts.get(1)), part(parts.get(2)));
                lines += &close.replace(']', "");
                let text = format!("{}|__slice({from},{to},{step}{lines})", out.text);
                Ok(Out { text, primary: false, height })
            }
            _ => Err(Fault::syntax(self.line(), "a slice has at most three parts")),
        }
    }

    fn call(&mut self, out: &Out) -> Written {
        let arguments = self.arguments()?;
        let height = self.higher(&[out.height, arguments.height])?;
        Ok(Out { text: bound(out) + &arguments.text, primary: true, height })
    }

    fn arguments(&mut self) -> Written {
        let (mut text, mut height) = (self.expect_op("(")?, 0);
        while !self.is_op(")") {
            if self.is_op("*") || self.is_op("**") {
                let star = self.next()?;
                put(&mut text, format_args!("{}{}", star.space, star.text));
            } else if self.peek().is_some_and(|t| t.kind == Kind::Name)
                && self.tokens.get(self.at + 1).is_some_and(|t| t.text == "=")
            {
                let name = self.next()?;
                put(&mut text, format_args!("{}{}", name.space, name.text));
                text += &self.expect_op("=")?;
            }
            let value = self.expr()?;
            text += &value.text;
            height = height.max(value.height);
            if !self.is_op(")") {
                text += &self.expect_op(",")?;
            }
        }
        text += &self.expect_op(")")?;
        Ok(Out { text, primary: true, height: self.higher(&[height])? })
    }

    /// `| name(args)` and `is name arg`, any number of them.
    fn filters(&mut self, mut out: Out) -> Written {
        loop {
            if self.is_op("|") {
                let bar = self.expect_op("|")?;
                let filter = self.filter()?;
                let height = self.higher(&[out.height, filter.height])?;
                out = Out { text: format!("{}{bar}{}", out.text, filter.text), primary: false, height };
            } else if self.is_name("is") {
                out = self.test(&out)?;
            } else if self.is_op("(") {
                out = self.call(&out)?;
            } else {
                return Ok(out);
            }
        }
    }

    fn dotted(&mut self) -> Result<(String, String, usize), Fault> {
        let token = self.expect_name()?;
        let mut name = token.text.to_owned();
        while self.is_op(".") {
            self.at += 1;
            name += ".";
            name += self.expect_name()?.text;
        }
        Ok((token.space.to_owned(), name, token.line))
    }

    /// `name` or `name(args)` behind a bar.
    pub(super) fn filter(&mut self) -> Written {
        let (space, name, line) = self.dotted()?;
        let mut out = Out { text: format!("{space}{name}"), primary: true, height: 1 };
        self.used.filters.push(Named { name, line, conditional: self.conditional });
        if self.is_op("(") {
            let arguments = self.arguments()?;
            out.text += &arguments.text;
            out.height = arguments.height;
        }
        Ok(out)
    }

    fn test(&mut self, left: &Out) -> Written {
        let is = self.next()?.space;
        let not = if self.is_name("not") { format!("{}not", self.next()?.space) } else { String::new() };
        let (space, name, line) = self.dotted()?;
        self.used.tests.push(Named { name: name.clone(), line, conditional: self.conditional });
        let mut text = format!("{}{is}is{not}{space}{name}", left.text);
        let mut height = left.height;
        if self.is_op("(") {
            let arguments = self.arguments()?;
            text += &arguments.text;
            height = height.max(arguments.height);
        } else if self.starts_test_argument() {
            let primary = self.primary()?;
            let argument = self.postfix(primary)?;
            put(&mut text, format_args!("({})", argument.text));
            height = height.max(argument.height);
        }
        let height = self.higher(&[height])?;
        Ok(Out { text, primary: false, height })
    }

    fn starts_test_argument(&self) -> bool {
        self.peek().is_some_and(|t| match t.kind {
            Kind::Name => !matches!(t.text, "else" | "or" | "and" | "is" | "if" | "in" | "not"),
            Kind::Op => matches!(t.text, "[" | "{"),
            _ => true,
        })
    }
}

fn bound(out: &Out) -> String {
    if out.primary { out.text.clone() } else { format!("({})", out.text) }
}

/// The text, set off from what stands before it.
fn spaced(text: &str) -> String {
    if text.starts_with(char::is_whitespace) { text.to_owned() } else { format!(" {text}") }
}
