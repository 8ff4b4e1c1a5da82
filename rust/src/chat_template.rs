//! Chat templates, rendered as `transformers` renders them (utils/chat_template_utils.py): Jinja with trim_blocks
//! and lstrip_blocks, loop controls, Python's methods on values, and a few globals.

use chrono::Local;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use regex::Regex;
use std::fmt::Write;

use crate::python_json;

/// Instructions and allocations that one rendering may spend: thousands of times what a long chat needs.
const FUEL: u64 = 20_000_000;

pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
}

impl ChatTemplate {
    pub fn compile(source: &str, name: &str) -> Result<Self, String> {
        let mut environment = new_environment().map_err(|error| describe(&error))?;
        environment
            .add_template_owned(name.to_string(), without_generation_tags(source))
            .map_err(|error| describe(&error))?;
        Ok(Self { environment, name: name.to_string() })
    }

    pub fn render(&self, variables: &str) -> Result<String, String> {
        let variables: Value = serde_json::from_str(variables).map_err(|error| error.to_string())?;
        let template = self.environment.get_template(&self.name).map_err(|error| describe(&error))?;
        template.render(variables).map_err(|error| describe(&error))
    }
}

fn new_environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", python_json::tojson);
    Ok(environment)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: String) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", Local::now().format(&format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown directive in \"{format}\""))
    })?;
    Ok(text)
}

/// `{% generation %}` … `{% endgeneration %}` marks what the model wrote, for training; it renders its body. As
/// a condition that always holds it does the same here.
fn without_generation_tags(source: &str) -> String {
    let tag =
        |name: &str| Regex::new(&format!(r"(\{{%[-+]?\s*){name}(\s*[-+]?%\}})")).expect("a valid pattern");
    let opened = tag("generation").replace_all(source, "${1}if true${2}");
    tag("endgeneration").replace_all(&opened, "${1}endif${2}").into_owned()
}

/// The error with its line, and with those that caused it.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}
