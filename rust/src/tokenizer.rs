//! A tokenizer.json, loaded once and shared by all threads.

use tokenizers::Tokenizer;

/// Mirrors OptiqTokenKind of include/optiq_bridge.h.
#[repr(C)]
pub enum TokenKind {
    Silent = 0,
    Text = 1,
    Byte = 2,
}

pub struct BridgeTokenizer {
    tokenizer: Tokenizer,
    joins_bytes: bool,
}

impl BridgeTokenizer {
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|error| error.to_string())?;
        Ok(Self { tokenizer, joins_bytes: contains_byte_fallback(&decoder) })
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| error.to_string())?.get_ids().to_vec())
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.tokenizer.decode(ids, skip_special_tokens).map_err(|error| error.to_string())
    }

    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    pub fn token_kind(&self, id: u32) -> TokenKind {
        match self.tokenizer.id_to_token(id) {
            None => TokenKind::Silent,
            Some(token) if self.tokenizer.get_added_vocabulary().is_special_token(&token) => {
                TokenKind::Silent
            }
            Some(token) if self.joins_bytes && is_byte_token(&token) => TokenKind::Byte,
            Some(_) => TokenKind::Text,
        }
    }
}

fn contains_byte_fallback(decoder: &serde_json::Value) -> bool {
    let nested = decoder.get("decoders").and_then(|list| list.as_array());
    decoder.get("type").is_some_and(|kind| kind == "ByteFallback")
        || nested.is_some_and(|list| list.iter().any(contains_byte_fallback))
}

/// "<0x0A>" and the like, as the ByteFallback decoder recognizes them.
fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
