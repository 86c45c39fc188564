#pragma once
// Seeded mutations of small files, for whatever reads them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>

namespace refit::fuzz {

/// One to four of: other byte, other bit, number, structure character, cut, removed, doubled or zeroed range.
inline std::string mutate(std::string text, std::mt19937_64& random) {
  constexpr std::string_view kStructure = "[]{}:,\"\\-.0e9=#'\n";
  const std::uint64_t rounds = 1 + random() % 4;
  for (std::uint64_t round = 0; round < rounds && !text.empty(); ++round) {
    const std::size_t at = random() % text.size();
    const std::size_t length = std::min<std::size_t>(text.size() - at, 1 + random() % 24);
    switch (random() % 8) {
      case 0: text[at] = static_cast<char>(random() & 0xFFU); break;
      case 1: text[at] = static_cast<char>(text[at] ^ (1 << (random() % 8))); break;
      case 2: text[at] = kStructure[random() % kStructure.size()]; break;
      case 3: text.resize(at); break;
      case 4: text.erase(at, length); break;
      case 5: text.insert(at, text.substr(at, length)); break;
      case 6: text.replace(at, length, length, random() % 2 == 0 ? '\0' : '\xFF'); break;
      case 7: text.insert(at, std::to_string(random() >> (random() % 64))); break;
    }
  }
  return text;
}

/// `usual`, or as often as $REFIT_FUZZ_ROUNDS says.
inline int rounds(int usual) {
  const char* asked = std::getenv("REFIT_FUZZ_ROUNDS");
  return asked == nullptr ? usual : std::atoi(asked);
}

/// A folder of its own for each test, and the files in it.
class Folder : public testing::Test {
 protected:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "refit-fuzz-XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  ~Folder() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name) const { return folder_ + "/" + name; }

  void store(const std::string& name, const std::string& bytes) const {
    std::filesystem::remove(file(name));  // some file systems flush a file that is emptied and written again
    std::ofstream(file(name), std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }

  std::string folder_;
};

}  // namespace refit::fuzz
