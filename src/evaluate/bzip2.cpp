#include <bzlib.h>

#include <algorithm>

#include "load.h"

namespace optiq::evaluate {

Result<std::string> decompress_bzip2(std::string_view compressed, std::size_t limit_bytes,
                                     const std::string& where) {
  bz_stream stream{};
  if (compressed.size() > UINT32_MAX || BZ2_bzDecompressInit(&stream, 0, 0) != BZ_OK)
    return fail(ErrorCode::out_of_resources, "{}: cannot decompress it", where);
  std::string text, block(1 << 20, '\0');
  stream.next_in = const_cast<char*>(compressed.data());
  stream.avail_in = static_cast<unsigned>(compressed.size());
  int outcome = BZ_OK;
  while (outcome == BZ_OK && text.size() <= limit_bytes) {
    stream.next_out = block.data();
    stream.avail_out = static_cast<unsigned>(block.size());
    outcome = BZ2_bzDecompress(&stream);
    const std::size_t made = block.size() - stream.avail_out;
    text.append(block, 0, made);
    if (outcome == BZ_OK && made == 0 && stream.avail_in == 0) outcome = BZ_UNEXPECTED_EOF;
  }
  BZ2_bzDecompressEnd(&stream);
  if (text.size() > limit_bytes)
    return fail(ErrorCode::bad_input, "{}: expected at most {} bytes of text", where, limit_bytes);
  if (outcome != BZ_STREAM_END)
    return fail(ErrorCode::bad_input, "{}: expected bzip2 data, found damaged or other data", where);
  return text;
}

}  // namespace optiq::evaluate
