//! The C ABI of include/optiq_bridge.h: pointers in, owned buffers out, panics caught. No logic of its own.

mod abi;
mod chat_template;
mod parquet_documents;
mod parquet_pages;
mod python_json;
mod thrift;
mod tokenizer;

use std::ffi::c_char;

use abi::{bytes_of, guarded, text_of, OptiqText, OptiqTokens};
use chat_template::ChatTemplate;
use parquet_documents::ParquetDocuments;
use tokenizer::BridgeTokenizer;

/// # Safety
/// `message` is null or came from a function of this library, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn optiq_error_free(message: *mut c_char) {
    if !message.is_null() {
        drop(std::ffi::CString::from_raw(message));
    }
}

/// # Safety
/// `text` came from a function of this library, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn optiq_text_free(text: OptiqText) {
    text.free();
}

/// # Safety
/// `tokens` came from a function of this library, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokens_free(tokens: OptiqTokens) {
    tokens.free();
}

/// # Safety
/// `json` points to `json_size` bytes; `tokenizer` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_new(
    json: *const u8,
    json_size: usize,
    tokenizer: *mut *mut BridgeTokenizer,
) -> *mut c_char {
    guarded(|| {
        let created = BridgeTokenizer::from_json(bytes_of(json, json_size))?;
        *tokenizer = Box::into_raw(Box::new(created));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is null or came from optiq_tokenizer_new, is unused elsewhere, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_free(tokenizer: *mut BridgeTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// `tokenizer` is alive; `text` points to `text_size` bytes; `tokens` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_encode(
    tokenizer: *const BridgeTokenizer,
    text: *const u8,
    text_size: usize,
    add_special_tokens: bool,
    tokens: *mut OptiqTokens,
) -> *mut c_char {
    guarded(|| {
        let ids = (*tokenizer).encode(text_of(text, text_size)?, add_special_tokens)?;
        *tokens = OptiqTokens::new(ids);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive; `tokens` points to `count` ids; `text` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_decode(
    tokenizer: *const BridgeTokenizer,
    tokens: *const u32,
    count: usize,
    skip_special_tokens: bool,
    text: *mut OptiqText,
) -> *mut c_char {
    guarded(|| {
        let decoded = (*tokenizer).decode(bytes_of(tokens, count), skip_special_tokens)?;
        *text = OptiqText::new(decoded);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_vocabulary_size(tokenizer: *const BridgeTokenizer) -> usize {
    (*tokenizer).vocabulary_size()
}

/// # Safety
/// `tokenizer` is alive; `token` points to `token_size` bytes; `id` and `found` are writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_token_to_id(
    tokenizer: *const BridgeTokenizer,
    token: *const u8,
    token_size: usize,
    id: *mut u32,
    found: *mut bool,
) -> *mut c_char {
    guarded(|| {
        let known = (*tokenizer).token_to_id(text_of(token, token_size)?);
        *found = known.is_some();
        *id = known.unwrap_or(0);
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is alive; `kind` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_tokenizer_token_kind(
    tokenizer: *const BridgeTokenizer,
    id: u32,
    kind: *mut std::ffi::c_int,
) -> *mut c_char {
    guarded(|| {
        *kind = (*tokenizer).token_kind(id) as std::ffi::c_int;
        Ok(())
    })
}

/// # Safety
/// `source` and `name` point to `source_size` and `name_size` bytes; `chat_template` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_template_new(
    source: *const u8,
    source_size: usize,
    name: *const u8,
    name_size: usize,
    chat_template: *mut *mut ChatTemplate,
) -> *mut c_char {
    guarded(|| {
        let created = ChatTemplate::compile(text_of(source, source_size)?, text_of(name, name_size)?)?;
        *chat_template = Box::into_raw(Box::new(created));
        Ok(())
    })
}

/// # Safety
/// `chat_template` is null or came from optiq_template_new, is unused elsewhere, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn optiq_template_free(chat_template: *mut ChatTemplate) {
    if !chat_template.is_null() {
        drop(Box::from_raw(chat_template));
    }
}

/// # Safety
/// `chat_template` is alive; `variables` points to `variables_size` bytes; `text` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_template_render(
    chat_template: *const ChatTemplate,
    variables: *const u8,
    variables_size: usize,
    text: *mut OptiqText,
) -> *mut c_char {
    guarded(|| {
        *text = OptiqText::new((*chat_template).render(text_of(variables, variables_size)?)?);
        Ok(())
    })
}

/// # Safety
/// `bytes` points to `size` bytes that outlive the reader; `reader` is writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_parquet_new(
    bytes: *const u8,
    size: usize,
    reader: *mut *mut ParquetDocuments,
) -> *mut c_char {
    guarded(|| {
        let opened = ParquetDocuments::open(bytes_of::<'static>(bytes, size))?;
        *reader = Box::into_raw(Box::new(opened));
        Ok(())
    })
}

/// # Safety
/// `reader` is null or came from optiq_parquet_new, is unused elsewhere, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn optiq_parquet_free(reader: *mut ParquetDocuments) {
    if !reader.is_null() {
        drop(Box::from_raw(reader));
    }
}

/// # Safety
/// `reader` is alive and unused elsewhere; `document` and `found` are writable.
#[no_mangle]
pub unsafe extern "C" fn optiq_parquet_next(
    reader: *mut ParquetDocuments,
    document: *mut OptiqText,
    found: *mut bool,
) -> *mut c_char {
    guarded(|| {
        let next = (*reader).next()?;
        *found = next.is_some();
        if let Some(text) = next {
            *document = OptiqText::new(text);
        }
        Ok(())
    })
}
