import unittest
from pathlib import Path

import driver_runs

SUBJECT = Path(__file__).parent / "collectives.py"


@driver_runs.needs_subjects
class Collectives(unittest.TestCase):
    def test_do_what_they_say_and_are_seen_by_the_driver(self):
        cases = [f"impl=collectives model=qwen3_moe dtype=fp32 phases=load,forward mesh={mesh}" for mesh in ("ep=2", "dp=2,ep=2", "ep=4")]
        for record in driver_runs.run_cases(SUBJECT, cases):
            self.assertEqual(record["verdict"], "pass", record["findings"][:3])
            log = next(check for check in record["checks"] if check["name"] == "comm_log")
            # Four plain ones, and two each of the five that autograd passes through but for the identities' halves.
            self.assertEqual((log["state"], log["compared"]), ("pass", 12 * 2 * (1 if record["config"]["mesh"] == "ep=2" else 2)))

    def test_of_other_peoples_code_are_seen_too(self):
        cases = [f"impl=elsewhere model=qwen3_moe dtype=fp32 mesh={mesh}" for mesh in ("ep=2", "dp=2,ep=2")]
        for record in driver_runs.run_cases(SUBJECT, cases):
            self.assertEqual(record["verdict"], "pass", (record["reason"], record["findings"][:3]))


if __name__ == "__main__":
    unittest.main()
