/* The C ABI of rust/: tokenizers, chat templates and Parquet. Only src/io includes it.

   Text goes in as (pointer, bytes), not NUL-terminated; a null pointer is fine where the size is 0. Text
   comes out as OptiqText, always valid UTF-8.

   Errors: a function that returns char* returns NULL for success, else a NUL-terminated UTF-8 message that
   the caller frees with optiq_error_free; the outputs are then untouched. Panics of the Rust side are caught
   and come back as such messages.

   Ownership: what a function writes through an output pointer belongs to the caller until the matching
   *_free, which accepts null and must be called once.

   Threads: handles are immutable after creation, so any number of threads may use one at the same time;
   freeing one needs that no other thread still uses it. A Parquet reader alone moves on, and belongs to one
   thread. */
#ifndef OPTIQ_BRIDGE_H
#define OPTIQ_BRIDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct OptiqTokenizer OptiqTokenizer;
typedef struct OptiqTemplate OptiqTemplate;
typedef struct OptiqParquet OptiqParquet;

typedef struct OptiqText {
  char* data; /* size bytes, no NUL at the end */
  size_t size;
} OptiqText;

typedef struct OptiqTokens {
  uint32_t* data; /* size token ids */
  size_t size;
} OptiqTokens;

/* What a token adds to decoded text when special tokens are skipped. */
typedef enum OptiqTokenKind {
  OPTIQ_TOKEN_SILENT = 0, /* nothing: a special token, or an id outside the vocabulary */
  OPTIQ_TOKEN_TEXT = 1,
  OPTIQ_TOKEN_BYTE = 2 /* one byte (<0x0A>), decoded together with the byte tokens beside it */
} OptiqTokenKind;

void optiq_error_free(char* message);
void optiq_text_free(OptiqText text);
void optiq_tokens_free(OptiqTokens tokens);

/* A tokenizer from the content of a tokenizer.json. Its truncation and padding sections are ignored, as
   `transformers` ignores them unless asked. */
char* optiq_tokenizer_new(const char* json, size_t json_size, OptiqTokenizer** tokenizer);
void optiq_tokenizer_free(OptiqTokenizer* tokenizer);

/* Text that is not valid UTF-8 is an error that names the byte offset. */
char* optiq_tokenizer_encode(const OptiqTokenizer* tokenizer, const char* text, size_t text_size,
                             bool add_special_tokens, OptiqTokens* tokens);
/* Ids outside the vocabulary add nothing. */
char* optiq_tokenizer_decode(const OptiqTokenizer* tokenizer, const uint32_t* tokens, size_t count,
                             bool skip_special_tokens, OptiqText* text);
/* Entries of the vocabulary, added tokens included. */
size_t optiq_tokenizer_vocabulary_size(const OptiqTokenizer* tokenizer);
/* The id of a token by its exact text; *found is false where there is none. */
char* optiq_tokenizer_token_to_id(const OptiqTokenizer* tokenizer, const char* token, size_t token_size,
                                  uint32_t* id, bool* found);
char* optiq_tokenizer_token_kind(const OptiqTokenizer* tokenizer, uint32_t id, OptiqTokenKind* kind);

/* Compiles a chat template (Jinja). Errors name `name` and the line. */
char* optiq_template_new(const char* source, size_t source_size, const char* name, size_t name_size,
                         OptiqTemplate** chat_template);
void optiq_template_free(OptiqTemplate* chat_template);
/* Renders over the members of a JSON object. A render that needs more than a fixed, generous amount of work
   is an error, so that a hostile template ends. */
char* optiq_template_render(const OptiqTemplate* chat_template, const char* variables, size_t variables_size,
                            OptiqText* text);

/* The rows of a Parquet file whose content is `bytes`, which must outlive the reader: its column `text`, or
   `messages` (lists of structs with `role` and `content`). Memory is bounded whatever the file claims. */
char* optiq_parquet_new(const char* bytes, size_t size, OptiqParquet** reader);
void optiq_parquet_free(OptiqParquet* reader);
/* The next row as JSON: {"text": …} or {"messages": [{"role", "content"}, …]}, null for a row that has none.
 *found is false at the end, and after an error. */
char* optiq_parquet_next(OptiqParquet* reader, OptiqText* document, bool* found);

#ifdef __cplusplus
}
#endif

#endif
