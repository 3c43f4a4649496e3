// The page in a real browser: Chromium, headless, without network. A missing browser is a failure, not a skip: nothing else
// proves that the page is shown and that a hostile name stays text.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/base/files.h"
#include "reports/report.h"
#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Output {
  int exit_status = -1;
  std::string text;
};

Output output_of(const std::string& command) {
  Output output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  for (std::size_t size = 0; (size = fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.text.append(buffer, size);
  output.exit_status = pclose(pipe);
  return output;
}

class Browser : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(output_of("command -v chromium").exit_status, 0)
        << "chromium is not on PATH. It is needed to test the HTML report; ci/bootstrap installs it (apt-get install chromium)";
    std::string pattern = (std::filesystem::temp_directory_path() / "moecheck-browser-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  // The document as it is once the browser has loaded `html` and scripts, if there are any, have run.
  std::string loaded(const std::string& html) {
    const auto page = folder_ / "page.html";
    EXPECT_TRUE(base::write_file_atomically(page, html).ok());
    const Output output =
        output_of(fmt::format("timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
                              "--user-data-dir='{}' --dump-dom 'file://{}' 2>'{}'",
                              (folder_ / "profile").string(), page.string(), (folder_ / "stderr").string()));
    EXPECT_EQ(output.exit_status, 0) << base::read_file(folder_ / "stderr").value();
    return output.text;
  }

  std::filesystem::path folder_;
};

std::string html_of(const record::RunRecord& run) { return find_format("html")->render(run); }

// The same page without its content security policy, so that only the escaping stands between a name and the browser.
std::string without_policy(std::string html) {
  const auto begin = html.find("<meta http-equiv=\"Content-Security-Policy\"");
  EXPECT_NE(begin, std::string::npos);
  return html.erase(begin, html.find('\n', begin) - begin);
}

TEST_F(Browser, WouldShowAScriptThatRan) {
  const std::string dom = loaded(fmt::format("<!DOCTYPE html><title>page</title><body>{}</body>", sample::kScript));
  EXPECT_THAT(dom, HasSubstr("<title>owned</title>")) << "otherwise the tests below prove nothing";
}

TEST_F(Browser, ShowsTheRealisticRunWithoutAScript) {
  const std::string dom = loaded(html_of(sample::realistic_run()));
  EXPECT_THAT(dom, HasSubstr("<h1>5 of 9 cases fail</h1>"));
  EXPECT_THAT(dom, HasSubstr("tokens of non-local experts dropped"));
  EXPECT_THAT(dom, HasSubstr("holds expert 3"));
  EXPECT_THAT(dom, HasSubstr("moecheck run --case \"impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=bf16 seed=7\""));
  EXPECT_THAT(dom, Not(HasSubstr("<script")));
}

TEST_F(Browser, TakesAHostileNameForText) {
  const std::string dom = loaded(without_policy(html_of(sample::hostile_run())));
  EXPECT_THAT(dom, HasSubstr("<title>moecheck: 1 of 5 cases fails</title>")) << "no script ran";
  EXPECT_THAT(dom, HasSubstr("&lt;script&gt;document.title='owned'&lt;/script&gt;"));
  EXPECT_THAT(dom, HasSubstr("&lt;img src=x onerror="));
  EXPECT_THAT(dom, Not(HasSubstr("<script")));
  EXPECT_THAT(dom, Not(HasSubstr("<img")));
  EXPECT_THAT(dom, HasSubstr("</details>\n</details></section>\n</main>")) << "the page's own structure is whole";
}

}  // namespace
}  // namespace moecheck::reports
