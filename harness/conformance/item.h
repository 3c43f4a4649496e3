// The conformance kit: what a subject has to keep of the protocol beside computing well, item by item.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::conformance {

class Trial;

enum class Outcome { kOk, kFailed, kNotApplicable };
std::string_view outcome_name(Outcome outcome);   // "ok", "FAIL", "n/a"

struct ItemResult {
  Outcome outcome = Outcome::kFailed;
  std::string message;             // of a failure: what was expected and found, and what the author can do; else the reason, or what was looked at
  std::vector<std::string> notes = {};   // what was not looked at, and what a reader may want to know
};

ItemResult ok(std::string message, std::vector<std::string> notes = {});
ItemResult failed(std::string message);
ItemResult not_applicable(std::string reason);

struct Item {
  std::string_view name;
  std::string_view proves;
  ItemResult (*run)(Trial& trial);
};

// In the order in which they run: later ones build on what the first ones prove.
std::span<const Item> items();

// One file each.
ItemResult describe(Trial& trial);
ItemResult sound_cases(Trial& trial);
ItemResult refusals(Trial& trial);
ItemResult order(Trial& trial);
ItemResult no_tokens(Trial& trial);
ItemResult values(Trial& trial);
ItemResult killed(Trial& trial);
ItemResult stopped(Trial& trial);
ItemResult noise(Trial& trial);
ItemResult large(Trial& trial);

}  // namespace moecheck::conformance
