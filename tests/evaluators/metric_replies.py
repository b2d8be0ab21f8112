"""Replies, golds and questions for comparing parsers: generated from a seed, adversarial by construction."""

import random
from typing import Any

TEXTS = (
    "red", "a red car", "red cars", "Left", "left", "The dog", "yes", "no", "12", "1,000", "$8 million", "3.5 m/s", "B",
    "None of the above", "café", "Zürich", "DNA", "A", "both A and B", "x = 2", "equal", "unequal", "cat", "", "Other Answers",
)  # fmt: skip
OPENINGS = (
    "", "", "", "The answer is ", "the correct answer is ", "Answer: ", "answer ", "I choose ", "My choice is ",
    "The best option is ", "Correct option is: ", "So the final result = ", "Thus x is ", "It could be ", "答案是", "Option ",
    "I think that after looking at it for a while, ", "A dog is in it. ", "DNA is here, so ", "Because it looks like a ",
    "ANSWER IS **", "The answer\nis ", "(", " ", "\n", "\t", "Sorry, I can't help with images of people yet. ",
    "Cannot determine the answer ", "Failed to obtain answer via API ",
)  # fmt: skip
MIDDLES = (
    "A", "B", "C", "D", "E", "Z", "a", "b", "c", "(A)", "(B)", "(c)", "(D)", "A.", "B.", "C)", "D:", "b.", "**B**", "[C]",
    "{D}", "'A'", '"B"', "A,", "A B", "A or B", "not C", "Yes", "yes", "YES.", "No", "no", "nope", "Not sure", "nothing",
    "eyes", "yes/no", "no-one", "Y", "n", "y.", "true", "False", "是", "不是", "否", "是的", "yes, no", "Yes.", "*Yes*", "K",
    "ſ", "İ", "ß", "Ａ", "12", "12%", "12.0", "-3", "+3", "1e3", "1E-2", "1,000", "1,234,567.5", "0", "0.0", "0.05", "5%%",
    "$5", "1_000", "nan", "inf", "-inf", "３", ".5", "5.", "1.005", "1,00", "--1", "12.5e", "e5", "1e400", "x=3", "= 7",
    "Blue", "A dog", "Downhill", "three", ":", "?", "'", "", "...", "\u00a0B", "B\u200b", "\U0001f600",
)  # fmt: skip
ENDINGS = (
    "", "", "", ".", "!", " ", "\n", ".\n", " is it", " because of that", ", not D", ". Then A.", "\nA", "\nSo it is 4",
    "\n\nTherefore final answer 1,200.", ")", "'", '"', "%", " %", " is the answer", " and (B) too", " (A)", ". " * 40,
    " which is what one would say about it", " 1,000", " -",
)  # fmt: skip


class Replies:
    """Draws, the same for a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def reply(self, extra: tuple[str, ...] = ()) -> str:
        """A reply; `extra` are texts of the question that it may contain, in any case, or miss by a character."""
        pick = self.random.choice
        if self.random.random() < 0.05:
            return "".join(pick("ABCDabcd ().,:;'-%0123456789\nxyesno=") for _ in range(self.random.randrange(30)))
        middles = [pick(MIDDLES) for _ in range(pick((1, 1, 1, 2, 3)))]
        if extra and self.random.random() < 0.4:
            text = pick(extra)
            middles.insert(
                self.random.randrange(len(middles) + 1), pick((text, text.lower(), text.upper(), text[1:], text + "s"))
            )
        return pick(OPENINGS) + pick(("", " ", ", ")).join(middles) + pick(ENDINGS)

    def yes_or_no(self) -> str:
        """Yes or no, somewhere near the start."""
        pick = self.random.choice
        start = pick(("", "", " ", "\n", "I", "*", '"', ".", "..", "Oh ", "It is ", "1,0 "))
        end = pick(("", ".", ". ", "!", ", it is", " it isn't", "/no", " or yes", "\n", ":", "-one", "t", "<", " ?"))
        return start + pick(("yes", "Yes", "YES", "no", "No", "NO", "y", "N", "Y.", "ye.s", "true", "是", "不是")) + end

    def options(self, most: int = 5) -> list[str]:
        return [self.random.choice(TEXTS) for _ in range(self.random.randint(2, most))]

    def near(self, gold: str) -> str:
        """The gold text with a few mistakes, or another reply."""
        pick = self.random.choice
        text = gold
        for _ in range(pick((0, 0, 1, 1, 2, 3, 5, 8))):
            at = self.random.randrange(len(text) + 1)
            text = pick((text[:at] + pick("xX 1") + text[at:], text[:at] + text[at + 1 :], text[:at].upper() + text[at:]))
        text = pick(("", "", " ", "\n")) + text + pick(("", "", ".", "  ", "%"))
        return text if self.random.random() < 0.8 else self.reply((gold,))

    def number(self) -> str:
        """A number as text, in some spelling."""
        value = self.random.choice((0, 1, 5, 12, 100, 1000, 2019, 0.05, 3.14, 0.5, -2, self.random.uniform(-50, 50)))
        spelling = self.random.choice(("{}", "{}", "{:.2f}", "{:.1e}", "{}%", "{:,}", " {} ", "{:+}"))
        return spelling.format(value)

    def about(self, gold: str) -> str:
        """A number up to some 6 % from the gold one, in some spelling; another where that is none."""
        try:
            value = float(gold.rstrip("%").replace(",", "")) * self.random.choice((1, 1.05, 0.95, 1.051, 0.949, 1.02, 100, 0.01))
        except ValueError:
            return self.near(gold)
        return self.random.choice(("{}", "{:.4f}", " {}\n", "{:e}", "{}%", "{:,}", "{}.")).format(value)

    def rows(self) -> list[dict[str, Any]]:
        """Answered yes/no questions in HallusionBench's groups."""
        rows = []
        for category, subcategory in (("VD", "figure"), ("VS", "chart"), ("VD", "ocr"), ("VS", "ocr")):
            for set_id in range(self.random.randint(1, 3)):
                for figure in range(self.random.randint(1, 3)):
                    for question in range(self.random.randint(1, 3)):
                        rows.append(
                            {
                                "category": category,
                                "subcategory": subcategory,
                                "set_id": str(set_id),
                                "figure_id": str(figure),
                                "question_id": str(question),
                                "gt_answer": self.random.choice("01"),
                                "reply": self.random.choice(("Yes", "No", "yes.", "no", "eyes", "")),
                            }
                        )
        return rows

    def images(self, tasks: tuple[str, ...]) -> list[dict[str, Any]]:
        """MME's pairs of questions."""
        rows = []
        for task in tasks:
            for image in range(self.random.randint(1, 3)):
                for answer in ("Yes", "No"):
                    rows.append(
                        {
                            "category": task,
                            "question_id": f"{task}/{image}.png",
                            "answer": answer,
                            "reply": self.random.choice(("Yes", "No", "y", "Not sure", "The answer is yes", answer)),
                        }
                    )
        return rows
