//! The pages of one column chunk, each checked before the crate `parquet` decodes it: what its header claims, and that
//! its compressed data hold no more than that. The crate trusts both and would allocate for them.

use std::io::{self, Cursor as IoCursor, Read};
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::thrift::{Cursor, KIND_STRUCT};

const MOST_PAGE_BYTES: i64 = 1 << 28;
/// Of all pages of a repeated column: its values are gathered before a list ends.
const MOST_VALUES: i64 = 1 << 24;
const MOST_FOOTER_BYTES: usize = 1 << 24;
/// Deeper schemas would overflow the stack of the crate, which recurses.
const MOST_SCHEMA_DEPTH: usize = 32;
const FOOTER_TAIL_BYTES: usize = 8;

fn error(message: impl Into<String>) -> ParquetError {
    ParquetError::General(message.into())
}

/// What a page's header claims.
#[derive(Default)]
struct PageHeader {
    uncompressed: i64,
    values: i64,
    encoding: i64,
    level_bytes: i64,
    is_dictionary: bool,
    is_plain: bool,
}

fn read_page_header(bytes: &[u8]) -> std::result::Result<PageHeader, String> {
    let mut header = PageHeader::default();
    let mut cursor = Cursor::new(bytes);
    cursor.fields(|cursor, field| {
        match (field.id, field.kind) {
            (2, 5) => header.uncompressed = cursor.integer()?,
            (5, KIND_STRUCT) | (7, KIND_STRUCT) | (8, KIND_STRUCT) => {
                header.is_dictionary = field.id == 7;
                let encoding_id = if field.id == 8 { 4 } else { 2 };
                let is_second = field.id == 8;
                cursor.fields(|cursor, inner| {
                    match (inner.id, inner.kind) {
                        (1, 5) => header.values = cursor.integer()?,
                        (id, 5) if id == encoding_id => header.encoding = cursor.integer()?,
                        (5, 5) | (6, 5) if is_second => header.level_bytes += cursor.integer()?,
                        (7, 1 | 2) if is_second => header.is_plain = !inner.is_true(),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if !cursor.is_at_end() {
        return Err("a page lies elsewhere than its header says".into());
    }
    Ok(header)
}

/// Whether `compressed` decodes to exactly `size` bytes, by a pass that keeps none of them.
fn check_decoded_size(codec: Compression, compressed: &[u8], size: u64) -> Result<()> {
    const BUFFER_BYTES: usize = 1 << 16;
    let frame_magic = [0x04, 0x22, 0x4d, 0x18];
    let decoder: Box<dyn Read + '_> = match codec {
        Compression::GZIP(_) => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
        Compression::BROTLI(_) => Box::new(brotli::Decompressor::new(compressed, BUFFER_BYTES)),
        Compression::ZSTD(_) => Box::new(zstd::Decoder::new(compressed)?),
        Compression::LZ4 if compressed.starts_with(&frame_magic) => {
            Box::new(lz4_flex::frame::FrameDecoder::new(compressed))
        }
        // These decode into a buffer of the claimed size.
        _ => return Ok(()),
    };
    let decoded = io::copy(&mut decoder.take(size + 1), &mut io::sink())?;
    if decoded != size {
        return Err(error(format!("a page does not decode to the {size} bytes its header claims")));
    }
    Ok(())
}

/// Where the crate read last, and how many values the pages so far claim.
#[derive(Default)]
struct Progress {
    reads: [u64; 2],
    values: i64,
}

pub struct CheckedPages {
    file: Bytes,
    codec: Compression,
    is_repeated: bool,
    progress: Mutex<Progress>,
}

impl CheckedPages {
    pub fn new(file: Bytes, codec: Compression, is_repeated: bool) -> Self {
        Self { file, codec, is_repeated, progress: Mutex::new(Progress::default()) }
    }

    fn range(&self, start: u64, size: usize) -> Result<Range<usize>> {
        let end = start.checked_add(size as u64).filter(|end| *end <= self.file.len() as u64);
        let end = end.ok_or_else(|| error("the file ends before its data"))?;
        Ok(start as usize..end as usize)
    }

    fn check(&self, header: &PageHeader, compressed: &[u8]) -> Result<()> {
        if !(0..=MOST_PAGE_BYTES).contains(&header.uncompressed) {
            return Err(error(format!(
                "a page claims {} bytes, expected at most {MOST_PAGE_BYTES}",
                header.uncompressed
            )));
        }
        // Of each dictionary entry at least the four bytes of its length are there.
        if header.values < 0 || (header.is_dictionary && header.values > header.uncompressed / 4) {
            return Err(error(format!(
                "a page of {} bytes claims {} values",
                header.uncompressed, header.values
            )));
        }
        if !matches!(header.encoding, 0 | 2 | 8) {
            return Err(error(format!(
                "a page has encoding {}, expected plain (0) or a dictionary (2, 8)",
                header.encoding
            )));
        }
        let mut progress = self.progress.lock().map_err(|_| error("a page failed before"))?;
        progress.values = progress.values.saturating_add(header.values);
        if self.is_repeated && progress.values > MOST_VALUES {
            return Err(error(format!(
                "expected at most {MOST_VALUES} values of a list column in a row group"
            )));
        }
        if header.is_plain || self.codec == Compression::UNCOMPRESSED {
            return Ok(());
        }
        let levels = header.level_bytes;
        if levels < 0 || levels > header.uncompressed || levels as usize > compressed.len() {
            return Err(error("a page's levels are longer than the page"));
        }
        match header.uncompressed - levels {
            0 => Ok(()),
            size => check_decoded_size(self.codec, &compressed[levels as usize..], size as u64),
        }
    }
}

impl Length for CheckedPages {
    fn len(&self) -> u64 {
        self.file.len() as u64
    }
}

impl ChunkReader for CheckedPages {
    type T = IoCursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let range = self.range(start, 0)?;
        let mut progress = self.progress.lock().map_err(|_| error("a page failed before"))?;
        progress.reads = [progress.reads[1], start];
        Ok(IoCursor::new(self.file.slice(range.start..)))
    }

    /// A page's data. Its header lies between them and where the crate read before; it reads once more where
    /// the data begin if it had peeked at the header.
    fn get_bytes(&self, start: u64, size: usize) -> Result<Bytes> {
        let range = self.range(start, size)?;
        let [before, last] = self.progress.lock().map_err(|_| error("a page failed before"))?.reads;
        let header_start = if last == start { before } else { last };
        if header_start > start {
            return Err(error("a page lies before its header"));
        }
        let header = read_page_header(&self.file[header_start as usize..range.start]).map_err(error)?;
        self.check(&header, &self.file[range.clone()])?;
        Ok(self.file.slice(range))
    }
}

/// Checks the footer: its lists fit in it, and the schema is not deep.
pub fn check_footer(file: &[u8]) -> std::result::Result<(), String> {
    if file.len() < FOOTER_TAIL_BYTES + 4 || !file.starts_with(b"PAR1") || !file.ends_with(b"PAR1") {
        return Err("not a Parquet file, or a truncated one: it does not begin and end with PAR1".into());
    }
    let tail = file.len() - FOOTER_TAIL_BYTES;
    let size = u32::from_le_bytes([file[tail], file[tail + 1], file[tail + 2], file[tail + 3]]) as usize;
    if size > tail || size > MOST_FOOTER_BYTES {
        return Err(format!("the footer claims {size} bytes, of a file of {}", file.len()));
    }
    Cursor::new(&file[tail - size..tail]).fields(|cursor, field| {
        if field.id != 2 {
            return Ok(false);
        }
        check_schema(cursor).map(|()| true)
    })
}

fn check_schema(cursor: &mut Cursor) -> std::result::Result<(), String> {
    let (count, kind) = cursor.list()?;
    if kind != KIND_STRUCT {
        return Err("the schema is no list of elements".into());
    }
    let mut open: Vec<i64> = Vec::new();
    for _ in 0..count {
        let mut children = 0;
        cursor.fields(|cursor, field| {
            if (field.id, field.kind) != (5, 5) {
                return Ok(false);
            }
            children = cursor.integer()?;
            Ok(true)
        })?;
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > MOST_SCHEMA_DEPTH {
            return Err("the schema is nested too deep".into());
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}
