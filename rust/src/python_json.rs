//! The `tojson` filter of chat templates: the text of Python's json.dumps, which models were trained on.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

const DEEPEST_NESTING: usize = 256;

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False).
pub fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let style = Style::from_arguments(&kwargs)?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_value(&mut out, value, &style, 0)?;
    Ok(out)
}

impl Style {
    fn from_arguments(kwargs: &Kwargs) -> Result<Self, Error> {
        let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|value| !value.is_none()) {
            Some(value) => Some(indent_text(&value)?),
            None => None,
        };
        let given = kwargs.get::<Option<Value>>("separators")?.filter(|value| !value.is_none());
        let (item_separator, key_separator) = match given {
            Some(pair) => (separator(&pair, 0)?, separator(&pair, 1)?),
            None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        };
        Ok(Self {
            ensure_ascii: flag(kwargs, "ensure_ascii")?,
            indent,
            item_separator,
            key_separator,
            sort_keys: flag(kwargs, "sort_keys")?,
        })
    }
}

fn flag(kwargs: &Kwargs, name: &str) -> Result<bool, Error> {
    Ok(kwargs.get::<Option<Value>>(name)?.is_some_and(|value| value.is_true()))
}

/// A number of spaces, or the text itself.
fn indent_text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None => Ok(" ".repeat(i64::try_from(value.clone())?.clamp(0, 64) as usize)),
    }
}

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let text = pair.get_item_by_index(index)?;
    let wrong = || Error::new(ErrorKind::InvalidOperation, "tojson: separators: expected two strings");
    text.as_str().map(str::to_string).ok_or_else(wrong)
}

fn write_value(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST_NESTING {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => write_list(out, value, style, depth)?,
        ValueKind::Map => write_object(out, value, style, depth)?,
        other => {
            let message = format!("tojson: a value of type {other} has no JSON form");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

fn write_list(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    out.push('[');
    let mut empty = true;
    for item in value.try_iter()? {
        begin_item(out, style, depth, empty);
        empty = false;
        write_value(out, &item, style, depth + 1)?;
    }
    end_items(out, style, depth, empty, ']');
    Ok(())
}

fn write_object(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if style.sort_keys {
        keys.sort();
    }
    out.push('{');
    for (index, key) in keys.iter().enumerate() {
        begin_item(out, style, depth, index == 0);
        write_key(out, key, style)?;
        out.push_str(&style.key_separator);
        write_value(out, &value.get_item(key)?, style, depth + 1)?;
    }
    end_items(out, style, depth, keys.is_empty(), '}');
    Ok(())
}

/// Python turns keys that are numbers, booleans or None into their JSON text.
fn write_key(out: &mut String, key: &Value, style: &Style) -> Result<(), Error> {
    let mut text = String::new();
    match key.as_str() {
        Some(known) => text.push_str(known),
        None => write_value(&mut text, key, style, DEEPEST_NESTING)?,
    }
    write_string(out, &text, style.ensure_ascii);
    Ok(())
}

fn begin_item(out: &mut String, style: &Style, depth: usize, first: bool) {
    if !first {
        out.push_str(&style.item_separator);
    }
    new_line(out, style, depth + 1);
}

fn end_items(out: &mut String, style: &Style, depth: usize, empty: bool, bracket: char) {
    if !empty {
        new_line(out, style, depth);
    }
    out.push(bracket);
}

fn new_line(out: &mut String, style: &Style, depth: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        out.push_str(&indent.repeat(depth));
    }
}

fn write_number(out: &mut String, value: &Value) {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => out.push_str(&python_float(number)),
        _ => out.push_str(&value.to_string()),
    }
}

/// float.__repr__: the shortest digits that round-trip, with an exponent below 1e-4 and from 1e16 on.
fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    // Rust's Debug has the same thresholds, but writes 1e16 for Python's 1e+16.
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            format!("{digits}e{exponent:+03}")
        }
        None => text,
    }
}

fn write_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            _ if character < ' ' || (ensure_ascii && character > '~') => write_escaped(out, character),
            _ => out.push(character),
        }
    }
    out.push('"');
}

fn write_escaped(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}");
    }
}
