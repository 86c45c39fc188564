// Megatron's virtual stages and pipeline layouts against tables written out by hand: how a layout string is read, how
// many layers sections have, and where everything else is.

#include <gmock/gmock.h>

#include <map>
#include <random>
#include <regex>

#include "layout_models.hpp"
#include "train/megatron/pipeline.hpp"

namespace refit::train::megatron {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;

using Sections = std::vector<std::string>;
using Counts = std::vector<std::int64_t>;

TEST(LayoutString, IsWrittenOutAsMegatronDoes) {
  const std::pair<const char*, Sections> rows[] = {
      {"EttL", {"EttL"}},
      {"Et|tL", {"Et", "tL"}},
      {"Et*2|(tt|)*3tL", {"Ett", "tt", "tt", "tt", "tL"}},
      {"Ettt|(tt|)*2,m|L", {"Ettt", "tt", "tt", "m", "L"}},
      {"E|t*6|L", {"E", "tttttt", "L"}},
      {"E||L", {"E", "", "L"}},
      {"E|*3L", {"E", "", "", "L"}},
      {"Exy", {}},
      {"E(t*2|)*2L", {"Ett", "tt", "L"}},
      {"E(t|t)*2L", {"Et", "tt", "tL"}},
      {"Et*0L", {"EL"}},
      {"E,t*1,0|L", {"Etttttttttt", "L"}},
      {"(t)*2*3", {"tttt"}},  // the last of them again
  };
  for (const auto& [text, sections] : rows) EXPECT_EQ(parse_pipeline_layout(text).sections, sections) << text;
}

TEST(LayoutString, SaysWhereItIsWrong) {
  const std::pair<std::string, const char*> rows[] = {
      {"", "is empty"},
      {",,", "is empty"},
      {"Et|xL", "character 4, \"x\", is none of"},
      {"E t", "character 2, byte 0x20, is none of"},
      {std::string("E\0t", 3), "character 2, byte 0x00, is none of"},
      {"Et\xc3\xa9", "character 3, byte 0xc3, is none of"},
      {"Et*", "character 3, \"*\", is none of"},
      {"Et*x", "character 3, \"*\", is none of"},
      {"Et*-1L", "character 3, \"*\", is none of"},
      {"*3", "character 1, \"*\", is none of"},
      {"Et3L", "character 3, \"3\", is none of"},
      {"E,t*2*2L", "character 6, \"*\", is none of"},
      {"E(tt|L", "character 2, \"(\", opens a bracket that is not closed"},
      {"Ett)*2L", "character 4, \")\", closes a bracket that is not open"},
      {"E(tt|)L", "character 2, \"(\", needs a number behind its brackets"},
      {"E(t(t|)*2)*2L", "character 4, \"(\", is inside brackets"},
      {"E()*2L", "character 2, \"(\", has nothing inside"},
      {"Et*1000000000L", "character 2: it has more than 65536"},
      {"Et*99999999999999999999999L", "character 2: it has more than 65536"},
      {"E(t|)*65536L", "character 3: it has more than 65536"},
      {"E(t*60000|)*2L", "has more than 65536"},
      {std::string(70000, 't'), "has more than 65536"},
  };
  for (const auto& [text, message] : rows) {
    const LayoutString parsed = parse_pipeline_layout(text);
    EXPECT_THAT(parsed.error, HasSubstr(message)) << text;
    EXPECT_THAT(parsed.sections, IsEmpty()) << text;
  }
}

/// Returns the sections as Megatron-Core's two substitutions leave them; none where other letters are left.
Sections substituted(std::string text) {
  std::erase(text, ',');
  static const std::regex patterns[] = {std::regex(R"(\(([^)]+)\)\*(\d+))"), std::regex(R"((.)\*(\d+))")};
  for (const std::regex& repeated : patterns) {
    std::string result;
    std::string rest = text;
    for (std::smatch match; std::regex_search(rest, match, repeated); rest = match.suffix().str()) {
      result += match.prefix().str();
      for (int i = 0; i < std::stoi(match[2]); ++i) result += match[1];
    }
    text = result + rest;
  }
  if (text.empty() || text.find_first_not_of("EtmL|") != std::string::npos) return {};
  Sections sections{""};
  for (char letter : text) letter == '|' ? sections.emplace_back() : sections.back() += letter;
  return sections;
}

TEST(LayoutString, OfAnyLettersIsReadOrRefusedAsMegatronDoes) {
  std::mt19937 random(1);
  const std::string letters = "EttmL||(()))**,123";
  std::size_t read = 0;
  for (int i = 0; i < 10000; ++i) {
    std::string text;
    for (std::size_t length = 1 + random() % 9; text.size() < length;) text += letters[random() % letters.size()];
    const LayoutString parsed = parse_pipeline_layout(text);
    EXPECT_EQ(parsed.sections, substituted(text)) << text << " " << parsed.error;
    EXPECT_EQ(parsed.sections.empty(), !parsed.error.empty()) << text;
    read += parsed.sections.empty() ? 0U : 1U;
  }
  EXPECT_GT(read, 500U);
}

/// The settings of a pipeline.
struct Pipe {
  std::int64_t layers, pp;
  std::int64_t virtual_stages = 1;
  std::int64_t first = 0, last = 0;
  bool embedding = false, loss = false;
  const char* layout = "";
  Counts list{};

  Options options() const {
    Options result;
    result.sizes.pp = pp;
    result.virtual_stages = virtual_stages;
    result.first_stage_layers = first;
    result.last_stage_layers = last;
    result.account_for_embedding = embedding;
    result.account_for_loss = loss;
    result.pipeline_layout = layout;
    result.stage_layers = list;
    return result;
  }
};

// Section i is chunk i / PP of rank i mod PP.
TEST(Sections, HaveMegatronsLayers) {
  const std::pair<Pipe, Counts> rows[] = {
      {{8, 2, 4}, {1, 1, 1, 1, 1, 1, 1, 1}},
      {{8, 4, 2}, {1, 1, 1, 1, 1, 1, 1, 1}},
      {{12, 2, 2}, {3, 3, 3, 3}},
      {{8, 3, 2, 4, 2}, {2, 1, 1, 2, 1, 1}},
      {{6, 2, 2, 0, 2}, {2, 1, 2, 1}},
      {{8, 4, 2, 2, 2}, {1, 1, 1, 1, 1, 1, 1, 1}},
      {{6, 2, 2, 0, 0, true, true}, {1, 2, 2, 1}},
      {{7, 2, 2, 0, 0, true, false}, {1, 2, 2, 2}},
      {{7, 2, 1, 0, 0, false, true}, {4, 3}},
      {{2, 2, 2, 0, 0, true, true}, {0, 1, 1, 0}},
      {{6, 2, 1, 0, 0, false, false, "Ett|ttttL"}, {2, 4}},
      {{6, 2, 1, 0, 0, false, false, "E|t*6||L"}, {0, 6, 0, 0}},
      {{6, 2, 2, 0, 0, false, false, "E|t*6||L"}, {0, 6, 0, 0}},  // what follows from it may be said
      {{6, 2, 2, 0, 0, false, false, "", {1, 2, 1, 2}}, {1, 2, 1, 2}},
      {{61, 16, 1, 0, 0, false, false, "Et*3|(tt|)*29|L"}, [] {
         Counts counts(32, 2);
         counts.front() = 3;
         counts[30] = counts[31] = 0;
         return counts;
       }()}};
  for (const auto& [pipe, expected] : rows) {
    std::vector<std::string> problems;
    EXPECT_EQ(split_stages(pipe.layers, pipe.options(), problems), expected) << pipe.layout;
    EXPECT_THAT(problems, IsEmpty());
  }
}

TEST(Sections, RefuseWhatMegatronRefuses) {
  const std::pair<Pipe, const char*> rows[] = {
      {{6, 2, 2}, "virtual_stages 2 does not divide the layers of each PP rank, 3, 3; legal: 1, 3 [L4]"},
      {{8, 2, 2, 3}, "the layers of each PP rank, 3, 5; legal: 1 [L4]"},
      {{8, 2, 2, 0, 3}, "the layers of each PP rank, 5, 3; legal: 1 [L4]"},
      {{8, 3, 2, 2, 2}, ""},
      {{9, 3, 2, 2, 2}, "the layers of each PP rank, 2, 5, 2; legal: 1 [L4]"},
      {{6, 1, 2}, "legal: virtual_stages 1, or PP > 1"},
      {{6, 2, 2, 4, 2}, "leave one of the two out"},
      {{6, 2, 2, 0, 0, true}, "6 layers do not split over PP2"},
      {{4, 2, 2, 0, 0, true, true}, "(with embedding and loss), 3, 3; legal: 1, 3 [L4]"},
      {{6, 2, 1, 0, 0, false, false, "Ett|tttL"}, "has 5 decoder layers (t), the model 6 [L4]"},
      {{6, 2, 1, 0, 0, false, false, "Ett|tt|ttL"}, "has 3 sections, which PP2 does not divide"},
      {{6, 2, 3, 0, 0, false, false, "Ett|ttttL"}, "2 sections over PP2 are 1 virtual stages"},
      {{6, 1, 1, 0, 0, false, false, "Ett|ttttL"}, "legal: 1 section, or PP > 1"},
      {{2, 2, 1, 0, 0, false, false, "t|tL"}, "must begin with its only E"},
      {{2, 2, 1, 0, 0, false, false, "tE|tL"}, "must begin with its only E"},
      {{2, 2, 1, 0, 0, false, false, "EtE|tL"}, "must begin with its only E"},
      {{2, 2, 1, 0, 0, false, false, "Et|t"}, "end with its only L"},
      {{2, 2, 1, 0, 0, false, false, "Et|Lt"}, "end with its only L"},
      {{2, 2, 1, 0, 0, false, false, "EtL|tL"}, "end with its only L"},
      {{2, 2, 1, 0, 0, false, false, "Et|(tL"}, "pipeline_layout: character 4"},
      {{6, 2, 2, 0, 0, false, false, "", {3, 3}}, "PP2 x 2 virtual stages and 6 layers"}};
  for (const auto& [pipe, message] : rows) {
    std::vector<std::string> problems;
    const Counts sections = split_stages(pipe.layers, pipe.options(), problems);
    if (*message == '\0') {
      EXPECT_THAT(problems, IsEmpty());
      continue;
    }
    EXPECT_THAT(sections, IsEmpty()) << pipe.layout;
    ASSERT_EQ(problems.size(), 1U) << pipe.layout;
    EXPECT_THAT(problems.front(), HasSubstr(message));
  }
}

/// Returns the ranks and chunks that store a parameter, as "0 1.1": rank 0, and chunk 1 of rank 1.
std::string homes(const layout::Layout& layout, const model::Model& model, const std::string& name) {
  std::string result;
  for (std::int32_t r = 0; r < layout.ranks(); ++r) {
    for (const layout::Storage& storage : layout::materialise(layout, model.tensors, Rank{r}).storages) {
      if (storage.name != name) continue;
      result += (result.empty() ? "" : " ") + std::to_string(r);
      if (storage.key.chunk >= 0) result += "." + std::to_string(storage.key.chunk);
    }
  }
  return result;
}

struct Place {
  const char* model;
  const char* sizes;
  const char* layout;
  std::int64_t virtual_stages;
  const char *embedding, *norm, *head, *prediction;
};

// The models have 4 layers; DeepSeek's is the one with a layer of multi-token prediction.
TEST(Sections, HaveTheRest) {
  const Place rows[] = {
      {"llama", "PP2", "", 1, "0", "1", "1", ""},
      {"llama", "PP2", "", 2, "0.0", "1.1", "1.1", ""},
      {"llama_tied", "PP2", "", 2, "0.0", "1.1", "1.1", ""},
      {"llama", "PP3", "E|t*4|L", 1, "0", "2", "2", ""},
      {"llama", "PP2", "E|t*4||L", 1, "0.0", "1.1", "1.1", ""},
      {"deepseek_v3", "PP2", "", 1, "0 1", "1", "1", "1"},
      {"deepseek_v3", "PP2", "", 2, "0.0 1.1", "1.1", "1.1", "1.1"},
      {"deepseek_v3", "PP2", "Ettt|tmL", 1, "0 1", "1", "1", "1"},
      {"deepseek_v3", "PP2", "Etttt|mL", 1, "0 1", "0", "1", "1"},
      {"deepseek_v3", "PP2", "Ettttm|L", 1, "0", "0", "1", "0"},
      {"deepseek_v3", "PP3", "Ettt|tm|L", 1, "0 1", "1", "2", "1"},
      {"deepseek_v3", "PP3", "Etttt|m|L", 1, "0 1", "0", "2", "1"},
      {"deepseek_v3", "PP2", "Et|tt|t|mL", 1, "0.0 1.1", "0.1", "1.1", "1.1"},
      // Two copies of the embedding on one rank.
      {"deepseek_v3", "PP2", "Et|tt|tm|L", 1, "0.0 0.1", "0.1", "1.1", "0.1"},
      {"deepseek_v3", "PP2", "Et|ttt|m|L", 1, "0.0 0.1", "1.0", "1.1", "0.1"},
  };
  for (const Place& row : rows) {
    SCOPED_TRACE(fmt::format("{} {} {} {}", row.model, row.sizes, row.layout, row.virtual_stages));
    const model::Model model = layout::small_model(row.model);
    Options options;
    options.sizes = layout::parse_parallelism(row.sizes);
    options.pipeline_layout = row.layout;
    options.virtual_stages = row.virtual_stages;
    ASSERT_THAT(violations(model, options), IsEmpty());
    const auto layout = make_layout(model, options);
    EXPECT_EQ(homes(*layout, model, "embedding.word_embeddings.weight"), row.embedding);
    EXPECT_EQ(homes(*layout, model, "decoder.final_layernorm.weight"), row.norm);
    EXPECT_EQ(homes(*layout, model, "output_layer.weight"), row.head);
    EXPECT_EQ(homes(*layout, model, "mtp.layers.0.eh_proj.weight"), row.prediction);
  }
}

TEST(Sections, LayersBeginAnewInEachChunk) {
  const model::Model model = layout::small_model("llama");
  Options options;
  options.sizes = layout::parse_parallelism("PP2");
  options.pipeline_layout = "Et|t||ttL";
  const auto layout = make_layout(model, options);
  EXPECT_EQ(layout->chunks(), 2);
  const std::map<std::string, std::string> expected[] = {
      {{"chunk 0: decoder.layers.0.mlp.linear_fc2.weight", "model.layers.0.mlp.down_proj.weight"}},
      {{"chunk 0: decoder.layers.0.mlp.linear_fc2.weight", "model.layers.1.mlp.down_proj.weight"},
       {"chunk 1: decoder.layers.0.mlp.linear_fc2.weight", "model.layers.2.mlp.down_proj.weight"},
       {"chunk 1: decoder.layers.1.mlp.linear_fc2.weight", "model.layers.3.mlp.down_proj.weight"}}};
  for (std::int32_t r = 0; r < 2; ++r) {
    std::map<std::string, std::string> found;
    const layout::LocalLayout local = layout::materialise(*layout, model.tensors, Rank{r});
    for (const layout::LocalPiece& piece : local.pieces) {
      const layout::Storage& storage = local.storages[static_cast<std::size_t>(piece.storage)];
      if (storage.name.ends_with("linear_fc2.weight")) found[storage.title()] = model[piece.tensor].name;
    }
    EXPECT_EQ(found, expected[r]) << r;
  }
}

TEST(Sections, OfMultiTokenPredictionAreMegatrons) {
  const model::Model model = layout::small_model("deepseek_v3");
  const std::pair<const char*, const char*> rows[] = {
      {"Ett|ttL", "has 0 layers of multi-token prediction (m), the trainer builds 1; legal: 1"},
      {"Ett|ttmmL", "has 2 layers of multi-token prediction (m), the trainer builds 1; legal: 1"},
      {"Ett|mttL", "behind a layer of multi-token prediction (m)"},
      {"Ett|tt|t|mL", "has 5 decoder layers (t), the model 4"},
      {"Ett|ttm||L", "m in section 1, which is not the last chunk of its rank; legal: sections 2 to 3"}};
  for (const auto& [text, message] : rows) {
    Options options;
    options.sizes = layout::parse_parallelism("PP2");
    options.pipeline_layout = text;
    EXPECT_THAT(violations(model, options), testing::Contains(HasSubstr(message))) << text;
    options.mtp = false;
    options.pipeline_layout = "Ett|ttmL";
    EXPECT_THAT(violations(model, options), testing::Contains(HasSubstr("the trainer builds 0; legal: none")));
  }
}

TEST(Sections, OfHybridModelsAreNone) {
  const model::Model model = layout::small_model("nemotron_h");
  Options options;
  options.sizes = layout::parse_parallelism("PP2");
  options.virtual_stages = 3;
  EXPECT_THAT(violations(model, options), testing::Contains(HasSubstr("virtual stages of a hybrid model")));
  options.virtual_stages = 1;
  options.pipeline_layout = "Ettt|tttL";
  EXPECT_THAT(violations(model, options), testing::Contains(HasSubstr("what hybrid_layer_pattern says")));
}

}  // namespace
}  // namespace refit::train::megatron
