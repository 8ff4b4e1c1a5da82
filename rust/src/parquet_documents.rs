//! The documents of a Parquet file, row by row: the column `text`, or `messages` (lists of structs with `role` and
//! `content`), as the JSON objects that a line of JSONL holds.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Repetition, Type as PhysicalType};
use parquet::column::page::PageReader;
use parquet::column::reader::{get_column_reader, get_typed_column_reader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, TypePtr};
use serde_json::{json, Value};

use crate::parquet_pages::{check_footer, CheckedPages};

const ROWS_AT_ONCE: usize = 64;

enum Columns {
    Text(usize),
    Messages { role: usize, content: usize },
}

/// Readers of the row group that is being read.
enum Group {
    Text(Leaf),
    Messages { role: Leaf, content: Leaf },
}

pub struct ParquetDocuments {
    file: Bytes,
    metadata: ParquetMetaData,
    columns: Columns,
    next_group: usize,
    group: Option<Group>,
    row: u64,
}

impl ParquetDocuments {
    pub fn open(file: &'static [u8]) -> Result<Self, String> {
        check_footer(file)?;
        let file = Bytes::from_static(file);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|e| e.to_string())?;
        let columns = find_columns(metadata.file_metadata().schema_descr())?;
        Ok(Self { file, metadata, columns, next_group: 0, group: None, row: 0 })
    }

    /// The next row's document as JSON; `null` for a row without one. None at the end.
    pub fn next(&mut self) -> Result<Option<String>, String> {
        // Taken out meanwhile: after a failure or a panic the reader is at its end.
        let mut group = self.group.take();
        let groups = self.metadata.num_row_groups();
        let mut next_group = std::mem::replace(&mut self.next_group, groups);
        loop {
            let Some(mut current) = group else {
                if next_group == groups {
                    return Ok(None);
                }
                group = Some(self.open_group(next_group)?);
                next_group += 1;
                continue;
            };
            let document = current.next().map_err(|error| format!("row {}: {error}", self.row + 1))?;
            if let Some(document) = document {
                self.row += 1;
                self.group = Some(current);
                self.next_group = next_group;
                return Ok(Some(document.to_string()));
            }
            group = None;
        }
    }

    fn open_group(&self, index: usize) -> Result<Group, String> {
        Ok(match self.columns {
            Columns::Text(column) => Group::Text(self.leaf(index, column)?),
            Columns::Messages { role, content } => {
                Group::Messages { role: self.leaf(index, role)?, content: self.leaf(index, content)? }
            }
        })
    }

    fn leaf(&self, group: usize, column: usize) -> Result<Leaf, String> {
        let row_group = self.metadata.row_group(group);
        let chunk = row_group.columns().get(column).ok_or("a row group lacks a column")?;
        let description = self.metadata.file_metadata().schema_descr().column(column);
        let rows = usize::try_from(row_group.num_rows()).map_err(|_| "a row group of negative size")?;
        let pages =
            CheckedPages::new(self.file.clone(), chunk.compression(), description.max_rep_level() > 0);
        let pages =
            SerializedPageReader::new(Arc::new(pages), chunk, rows, None).map_err(|e| e.to_string())?;
        let root = self.metadata.file_metadata().schema_descr().root_schema_ptr();
        Ok(Leaf::new(description, root, Box::new(pages)))
    }
}

impl Group {
    fn next(&mut self) -> Result<Option<Value>, String> {
        match self {
            Group::Text(leaf) => {
                let Some(text) = leaf.next_flat()? else { return Ok(None) };
                Ok(Some(text.map_or(Value::Null, |text| json!({ "text": text }))))
            }
            Group::Messages { role, content } => match (role.next_list()?, content.next_list()?) {
                (None, None) => Ok(None),
                (Some(roles), Some(contents)) => messages(roles, contents).map(Some),
                _ => Err("messages: role and content have differing numbers of rows".into()),
            },
        }
    }
}

fn messages(roles: Vec<Value>, contents: Vec<Value>) -> Result<Value, String> {
    if roles.len() != contents.len() {
        return Err(format!("messages: {} roles, but {} contents", roles.len(), contents.len()));
    }
    if roles.is_empty() {
        return Ok(Value::Null);
    }
    let list =
        roles.into_iter().zip(contents).map(|(role, content)| json!({ "role": role, "content": content }));
    Ok(json!({ "messages": list.collect::<Vec<_>>() }))
}

/// One column of a row group.
struct Leaf {
    reader: ColumnReaderImpl<ByteArrayType>,
    max_definition: i16,
    /// Definition level from which a list has an element.
    element_definition: i16,
    rows: VecDeque<Option<ByteArray>>,
}

impl Leaf {
    fn new(description: ColumnDescPtr, root: TypePtr, pages: Box<dyn PageReader>) -> Self {
        Self {
            max_definition: description.max_def_level(),
            element_definition: element_definition(&description, root),
            reader: get_typed_column_reader(get_column_reader(description, pages)),
            rows: VecDeque::new(),
        }
    }

    /// Values and definition levels of up to `rows` rows.
    fn read(&mut self, rows: usize) -> Result<(Vec<i16>, Vec<ByteArray>), String> {
        let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (_, _, levels) = self
            .reader
            .read_records(rows, Some(&mut definitions), Some(&mut repetitions), &mut values)
            .map_err(|error| error.to_string())?;
        // A mandatory column has no levels.
        definitions.resize(levels, 0);
        Ok((definitions, values))
    }

    /// The next row of a column without repetition.
    fn next_flat(&mut self) -> Result<Option<Option<String>>, String> {
        if self.rows.is_empty() {
            let (definitions, values) = self.read(ROWS_AT_ONCE)?;
            let mut values = values.into_iter();
            for definition in definitions {
                let value = if definition == self.max_definition { values.next() } else { None };
                self.rows.push_back(value);
            }
        }
        let Some(value) = self.rows.pop_front() else { return Ok(None) };
        value.map(text_of).transpose().map(Some)
    }

    /// The next row of a list column: a string or null for each element.
    fn next_list(&mut self) -> Result<Option<Vec<Value>>, String> {
        let (definitions, values) = self.read(1)?;
        if definitions.is_empty() {
            return Ok(None);
        }
        let mut values = values.into_iter();
        let mut list = Vec::new();
        for definition in definitions.into_iter().filter(|level| *level >= self.element_definition) {
            let value = if definition == self.max_definition { values.next() } else { None };
            list.push(value.map(text_of).transpose()?.map_or(Value::Null, Value::String));
        }
        Ok(Some(list))
    }
}

fn text_of(value: ByteArray) -> Result<String, String> {
    let text = std::str::from_utf8(value.data());
    text.map(str::to_owned).map_err(|error| format!("not valid UTF-8 at byte {}", error.valid_up_to()))
}

/// The definition level at which the repeated node above a leaf is there.
fn element_definition(description: &ColumnDescPtr, root: TypePtr) -> i16 {
    let path = description.path();
    let mut level = 0;
    let mut node = root;
    for part in path.parts() {
        let Some(child) = node.get_fields().iter().find(|field| field.name() == part).cloned() else { break };
        match child.get_basic_info().repetition() {
            Repetition::REQUIRED => {}
            Repetition::OPTIONAL => level += 1,
            Repetition::REPEATED => return level + 1,
        }
        if child.is_primitive() {
            break;
        }
        node = child;
    }
    level
}

/// The leaf `text`, or the leaves `messages.….role` and `messages.….content`.
fn find_columns(schema: &SchemaDescriptor) -> Result<Columns, String> {
    let find = |first: &str, last: &str, repetition: i16| {
        let matching = schema.columns().iter().position(|column| {
            let parts = column.path().parts();
            parts.first().is_some_and(|part| part == first)
                && parts.last().is_some_and(|part| part == last)
                && column.max_rep_level() == repetition
                && (repetition > 0 || parts.len() == 1)
        });
        let index = matching?;
        let physical = schema.column(index).physical_type();
        Some(match physical {
            PhysicalType::BYTE_ARRAY => Ok(index),
            other => {
                Err(format!("column {}: expected strings, got {other}", schema.column(index).path().string()))
            }
        })
    };
    if let Some(text) = find("text", "text", 0) {
        return text.map(Columns::Text);
    }
    match (find("messages", "role", 1), find("messages", "content", 1)) {
        (Some(role), Some(content)) => Ok(Columns::Messages { role: role?, content: content? }),
        _ => {
            let names: Vec<String> =
                schema.columns().iter().take(16).map(|column| column.path().string()).collect();
            Err(format!(
                "expected a column \"text\", or \"messages\" with role and content; got {}",
                names.join(", ")
            ))
        }
    }
}
