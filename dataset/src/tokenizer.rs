//! Text to token ids and back.

use std::{fs, path::Path};

use crate::{FileError, TokenizerError};

/// The name of the byte tokenizer.
pub const BYTES: &str = "bytes";
/// The largest tokenizer.json that is read.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// Ids 0 to 255 are bytes, 256 ends a text.
pub(crate) const BYTES_END_OF_TEXT: u32 = 256;
pub(crate) const BYTES_VOCAB_SIZE: u32 = 257;
/// What common tokenizers call their end of text, in order of preference.
const COMMON_NAMES: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

/// Which token of a Hugging Face tokenizer ends a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfText<'a> {
    /// The first of the common names that the vocabulary has: `<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>`.
    Common,
    /// The token written like this.
    Named(&'a str),
    /// The token of this id.
    Id(u32),
}

/// Turns text into token ids and back.
#[derive(Clone, Debug)]
pub enum Tokenizer {
    /// UTF-8 bytes as ids 0 to 255, and 256 for the end of a text.
    Bytes,
    /// Any Hugging Face `tokenizer.json`.
    HuggingFace(Box<HuggingFace>),
}

/// A tokenizer read from a Hugging Face `tokenizer.json`; ids are those of the Python library.
#[derive(Clone, Debug)]
pub struct HuggingFace {
    name: String,
    json: Vec<u8>,
    tokenizer: tokenizers::Tokenizer,
    end_of_text: u32,
    vocab_size: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] if it cannot be read, is too large, or is no tokenizer with that end of text.
    pub fn load(name: &str, path: &Path, end_of_text: EndOfText<'_>) -> Result<Self, TokenizerError> {
        let bytes = fs::metadata(path).map_err(FileError::at("read", path))?.len();
        if bytes > MAX_TOKENIZER_BYTES {
            return Err(TokenizerError::TooLarge { name: name.to_owned(), bytes });
        }
        Self::from_json(name, fs::read(path).map_err(FileError::at("read", path))?, end_of_text)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`. Truncation and padding that it asks for are switched off.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_json(name: &str, json: Vec<u8>, end_of_text: EndOfText<'_>) -> Result<Self, TokenizerError> {
        if json.len() as u64 > MAX_TOKENIZER_BYTES {
            return Err(TokenizerError::TooLarge { name: name.to_owned(), bytes: json.len() as u64 });
        }
        if name == BYTES || name.is_empty() {
            return Err(TokenizerError::Name(name.to_owned()));
        }
        let refuse = |reason: tokenizers::Error| TokenizerError::Parse { name: name.to_owned(), reason: reason.to_string() };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&json).map_err(refuse)?;
        tokenizer.with_padding(None).with_truncation(None).map_err(refuse)?;
        let end_of_text = find_end_of_text(&tokenizer, end_of_text).ok_or_else(|| no_end_of_text(name, end_of_text))?;
        // ids may have gaps, so the number of tokens is no bound
        let last = tokenizer.get_vocab(true).into_values().max().unwrap_or(end_of_text);
        let vocab_size = last.checked_add(1).ok_or_else(|| refuse("its ids take all of 32 bits".into()))?;
        Ok(Self::HuggingFace(Box::new(HuggingFace { name: name.to_owned(), json, tokenizer, end_of_text, vocab_size })))
    }

    /// `bytes`, or the name given to a Hugging Face tokenizer.
    pub fn name(&self) -> &str {
        match self {
            Self::Bytes => BYTES,
            Self::HuggingFace(inner) => &inner.name,
        }
    }

    /// Every id is below this.
    pub fn vocab_size(&self) -> u32 {
        match self {
            Self::Bytes => BYTES_VOCAB_SIZE,
            Self::HuggingFace(inner) => inner.vocab_size,
        }
    }

    /// The id that ends a document.
    pub fn end_of_text(&self) -> u32 {
        match self {
            Self::Bytes => BYTES_END_OF_TEXT,
            Self::HuggingFace(inner) => inner.end_of_text,
        }
    }

    /// The bytes of the `tokenizer.json`; none for the byte tokenizer.
    pub fn json(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes => None,
            Self::HuggingFace(inner) => Some(&inner.json),
        }
    }

    /// The text's ids, without any token before or after it.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.encode_batch(&[text])?.remove(0))
    }

    /// The ids of each text, in parallel where that pays.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, TokenizerError> {
        match self {
            Self::Bytes => Ok(texts.iter().map(|text| text.bytes().map(u32::from).collect()).collect()),
            Self::HuggingFace(inner) => {
                let encodings = inner.tokenizer.encode_batch_fast(texts.to_vec(), false).map_err(|e| inner.failed(&e))?;
                Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
            }
        }
    }

    /// The text of ids, special tokens left out and incomplete UTF-8 replaced by U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`] for an id beyond the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let vocab_size = self.vocab_size();
        if let Some(&id) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(TokenizerError::UnknownToken { id, vocab_size });
        }
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::HuggingFace(inner) => inner.tokenizer.decode(ids, true).map_err(|e| inner.failed(&e)),
        }
    }
}

impl HuggingFace {
    fn failed(&self, reason: &tokenizers::Error) -> TokenizerError {
        TokenizerError::Failed { name: self.name.clone(), reason: reason.to_string() }
    }
}

fn find_end_of_text(tokenizer: &tokenizers::Tokenizer, wanted: EndOfText<'_>) -> Option<u32> {
    match wanted {
        EndOfText::Common => COMMON_NAMES.iter().find_map(|name| tokenizer.token_to_id(name)),
        EndOfText::Named(name) => tokenizer.token_to_id(name),
        EndOfText::Id(id) => tokenizer.id_to_token(id).map(|_| id),
    }
}

fn no_end_of_text(name: &str, wanted: EndOfText<'_>) -> TokenizerError {
    let wanted = match wanted {
        EndOfText::Common => COMMON_NAMES.join(", "),
        EndOfText::Named(token) => token.to_owned(),
        EndOfText::Id(id) => format!("of id {id}"),
    };
    TokenizerError::EndOfText { name: name.to_owned(), wanted }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn word_level() -> Vec<u8> {
        let vocab = r#"{"[UNK]":0,"hello":1,"world":2,"</s>":7}"#;
        let truncation = r#"{"direction":"Right","max_length":1,"strategy":"LongestFirst","stride":0}"#;
        let end = r#"{"id":7,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}"#;
        format!(
            r#"{{"version":"1.0","truncation":{truncation},"padding":null,"added_tokens":[{end}],"normalizer":null,
                "pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,"decoder":null,
                "model":{{"type":"WordLevel","vocab":{vocab},"unk_token":"[UNK]"}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn bytes_survive_the_round_trip() {
        let text = "naïve\n\u{0}\u{10ffff}";
        let ids = Tokenizer::Bytes.encode(text).unwrap();
        assert_eq!(ids.len(), text.len());
        assert_eq!(Tokenizer::Bytes.decode(&ids).unwrap(), text);
        assert_eq!(Tokenizer::Bytes.decode(&[104, 256, 105, 0xff]).unwrap(), "hi\u{fffd}");
        assert!(matches!(Tokenizer::Bytes.decode(&[257]), Err(TokenizerError::UnknownToken { id: 257, vocab_size: 257 })));
    }

    #[test]
    fn a_hugging_face_tokenizer_is_read_without_its_truncation() {
        let tokenizer = Tokenizer::from_json("words", word_level(), EndOfText::Common).unwrap();
        assert_eq!((tokenizer.name(), tokenizer.vocab_size(), tokenizer.end_of_text()), ("words", 8, 7));
        assert_eq!(tokenizer.encode("hello world there").unwrap(), [1, 2, 0]);
        assert_eq!(tokenizer.decode(&[1, 2, 7]).unwrap(), "hello world");
        assert!(matches!(tokenizer.decode(&[8]), Err(TokenizerError::UnknownToken { id: 8, vocab_size: 8 })));
    }

    #[test]
    fn a_byte_level_bpe_splits_and_joins_words() {
        let level = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#;
        let json = format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{level},
                "post_processor":null,"decoder":{level},"model":{{"type":"BPE","dropout":null,"unk_token":null,
                "continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
                "vocab":{{"a":0,"b":1,"Ġ":2,"Ã":3,"©":4,"ab":5,"Ġab":6,"<|endoftext|>":7}},"merges":["a b","Ġ ab"]}}}}"#
        );
        let tokenizer = Tokenizer::from_json("pairs", json.into_bytes(), EndOfText::Common).unwrap();
        let ids = tokenizer.encode("ab ab aé").unwrap();
        assert_eq!(ids, [5, 6, 2, 0, 3, 4]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "ab ab aé");
    }

    #[test]
    fn the_end_of_text_can_be_chosen() {
        let end = |wanted| Tokenizer::from_json("words", word_level(), wanted).map(|t| t.end_of_text());
        assert_eq!(end(EndOfText::Named("world")).unwrap(), 2);
        assert_eq!(end(EndOfText::Id(7)).unwrap(), 7);
        assert!(matches!(end(EndOfText::Named("[EOS]")), Err(TokenizerError::EndOfText { .. })));
        assert!(matches!(end(EndOfText::Id(5)), Err(TokenizerError::EndOfText { .. })));
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        let refuse = |name: &str, json: Vec<u8>| Tokenizer::from_json(name, json, EndOfText::Common).unwrap_err();
        assert!(matches!(refuse("words", b"{}".to_vec()), TokenizerError::Parse { .. }));
        assert!(matches!(refuse("bytes", word_level()), TokenizerError::Name(_)));
        let too_large = vec![b' '; MAX_TOKENIZER_BYTES as usize + 1];
        assert!(matches!(refuse("words", too_large), TokenizerError::TooLarge { .. }));
        let absent = Tokenizer::load("words", Path::new("/nonexistent/tokenizer.json"), EndOfText::Common);
        assert!(matches!(absent, Err(TokenizerError::File(_))));
    }
}
