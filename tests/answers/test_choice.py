"""Option letters after a marker, in a statement and at a text's end, on the C++ core and on the reference."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastsia.answers import reference
from fastsia.answers.choice import whole_choice
from fastsia.answers.extraction import extract_answers
from fastsia.answers.spec import Spec
from tests.answers.test_extraction import read_with_core
from tests.core import needs_core

COLOURS = ("red", "green", "blue", "yellow")
MASKS = ("safety goggles", "breathing mask", "rubber gloves", "lead apron")


def cases(block: str) -> dict[str, str | None]:
    """Texts and their answers. A line has the letter, or - for none, then the text: ⏎ is a line break, ‹00A0› a
    character."""
    table = {}
    for line in block.strip("\n").split("\n"):
        letter, text = line[0], line[2:]
        text = text.replace("⏎", "\n").replace("␍", "\r").replace("␉", "\t")
        parts = text.split("‹")
        text = parts[0] + "".join(chr(int(part[:4], 16)) + part[5:] for part in parts[1:])
        table[text] = None if letter == "-" else letter
    return table


# Four colours as the options ------------------------------------------------------------------------------------------

# One option follows a marker.
AFTER_A_MARKER = r"""
B The correct option is B. Option A is wrong since D.
B The correct choice is B. Choice A and D are wrong
B The right option is (B), whereas (C) is wrong.
B Answer is B, not D.
B The answer would be B, not D.
B The answer must be B, not D.
B The most likely answer is B, not D.
B Final answer - B, not D.
B Answer = B, not D.
B Final choice: B (not D)
D ANSWER IS D. A is incorrect.
B Answer: It is B, not A
B Answer：B，not D
C Answer: [A/B/C/D]⏎Answer: C
B Answer: A or B?⏎Answer: B
B Answer: B or green
B Answer: B, not D
B Answer: B, C is wrong
B Answer: B, because C is wrong
B Answer: B and not C
B Answer: B over C
B Answer: B (not C)
B Answer: B. A is wrong
B Answer: B (C is wrong)
B Answer: B, C and D are wrong
B Answer: B since A and C are wrong
B Answer: B, A is too small
B Answer: B - C is wrong
B Answer: B; C is wrong
B Answer: B, a green thing
A The answer is A rather than B
A The answer is A instead of B
A The answer is A over B
A Answer: A given that x
A Answer: A due to x
A Answer: A if x
A Answer: A with certainty
A Answer: A so x
A Answer: A that x
A Answer: A when x
A Answer: A in this case
A Answer: A by elimination
A Answer: A there
A Answer: A it is
A Answer: A.‹0020›
A Answer: A!
A Answer: a
A Answer: A red
B Answer: B green
A Answer: A. red
B Answer: A green
C Answer: C green
B Answer: the green
A Answer: A: red
A Answer: a red
A Answer: A red one
B Answer: Ｂ
B Answer: Ⓑ
B Answer: ⓑ
B Answer: 𝐁
B Answer: **B**
B Answer: $B$
B Answer: \textbf{B}
B Answer: “B”
B Answer: [B]
B Answer: {B}
B Answer: `B`
B Answer: <B>
B Answer: _B_
B Answer: __B__
B Answer: ***B***
B Answer: \(B\)
B Answer: \[B\]
B Answer: B)
B Answer: ②‹0020›
B Answer: （B）
B Answer: 【B】
A Answer: **A** rock
A Answer: (A) rock
B Answer: 2
B Answer: (2)
B Answer: 2.
C Answer: option 3
B Answer: 2, not 3
B Answer: therefore B
B Answer: clearly the letter B
B Answer: It's B
B Answer: it is likely B
B Answer: option (B)
B Answer: the correct option is B
B Answer: probably green
C Answer: Let's consider each. (C) is it.
B Answer: green, since
B Answer: green because
B Answer: Green.
B Answer: GREEN
B Answer: “green”
A Answer: red, not green
B The correct answer is: green
B The answer is green
B The answer is the green.
C The final answer is: blue
B The correct one: D. But B is the right choice.
B The answer choice B is correct. D no
B The answer is (B) green because A and C are wrong.
B Answer: B, since it's green; A is red
B Answer:B
B Answer: ⏎⏎B
B Answer: B⏎⏎Explanation: A is wrong
B <final_answer>B</final_answer> D no
B <FINAL_ANSWER>⏎B⏎</FINAL_ANSWER>⏎D is wrong
B I say <final_answer>(B)</final_answer>, not D
B <final_answer>B. green</final_answer> D
B Answer: B) green
B Answer: B) green.
B Answer: (B) Green
B Answer: **B. green**
B Answer: **B) green**
B Answer: \boxed{B}
B \boxed{\text{B: green}}
B \boxed{\text{(B)}}
B \boxed{B. green}
B \boxed{green}
B \boxed{\textbf{(B) }green}
C $\boxed{\mathrm{(C)}}$
B Answer: B (and not C)
B Answer: B but not C
B Answer: B; not C
B Answer: B (green) and not C
B Answer: B, whereas C is wrong
B Answer: B instead of C
B Answer: B as opposed to C
B Answer: B; A, C and D are wrong
B Answer: B (A, C, D are wrong)
B Answer: B and C isn't
B Answer: B, while A and C are not
B Answer: B: not A
B Answer: B, unlike A
B Answer: B, I am sure
A Answer: A, a red thing
A Answer: A; the others are wrong
A Answer: A the first
A Answer: A as it is red
A Answer: A can be seen
A Answer: A (red)
A Answer: A: it's red
A Answer: A - it's red
A Answer: A — red
A Answer: A—red
A Answer: A because...
A Answer: A [red]
A Answer: A␉red
A Answer: A. Red.
A Answer: a) red
A Answer: a. red
A Answer: A) red
A Answer: A.red
B Answer: B.green
A Answer: A:red
A Answer: A)red
C The answer cannot be B, so it is C.
C The answer isn't B. It is C.
B Answer B is correct; C is not
C Correct answer is C. Not D
C The right answer: C, not D
D The best answer is (D), because A, B and C ignore it.
B The answer has to be B; C no
A My final choice is option A.
C The answer is C. elegans
B Answer: B␍⏎C
B Answer:‹00A0›B
B Answer:‹3000›B
B Answer: B, and C is wrong
B Answer: B, A, C and D are wrong
B Answer: B and A is not
B Answer: B or more precisely green
B Answer: B = green
B Answer: B → green
B Answer: B: C is wrong
B Answer: "B. green"
B Answer: 'B'
B Answer: ‘B’
B Answer: «B»
B Answer: B/green
B Answer: (B/green)
B Answer: choice (B)
B Answer: Letter B
B Answer: #2
B Answer: Option #2
B Answer: No. 2
B Answer: number 2
B Answer: Option 2
B Answer: 2 is right
B Answer: 2) green
B Answer: 2. green
B Answer: 2 green
A The answer is A, since the others are not.
A The answer is A: red.
A The answer is A red light
C The answer is (C), not (D).
B The answer is not A but B
B The answer is that B is correct
B The answer is option B because option A says red
D The answer is therefore D
D The answer is, of course, D
D The answer is definitely (D)
D The answer is most likely D.
D The answer is simply: D
D The answer is "D"
D The answer is letter D
D The answer is the letter D
D The answer is **D**.
D The answer is: **D. yellow**
D The answer is $\boxed{D}$
D The answer is \textbf{(D)}
D The answer is: D) yellow
C The best choice would be C as A is wrong
C The right choice must be C.
C So the answer is C; it is not A
C The answer is C - not A
C The answer is C/not A
C Answer: C, which is blue
C Answer: C, the blue one
C Answer: C I think
C Answer: C? I think
C Answer: C!!!
C Answer: C...
C Answer: >> C
C Answer: -> C
C Answer: => C
C Answer: → C
C Answer: • C
C Answer: ⏎- C
C Answer: ⏎* C
C Answer: c
C Answer: c.
C Answer: c because
C Answer: option c
C Answer: c, not d
A Answer: a.
A Answer: a, since
A Answer: a because
A Answer: (a)
A Answer: A. red or B. green
B Answer: B (not A), C is wrong
B Answer: B␉C is wrong
B Answer: B, never C
B Answer: B, A was wrong
B Answer: B, with C wrong
B Answer: B and definitely not C
B Answer: B, rather than C
B Answer: B, C isn't it
B Answer: B (since A, C are wrong)
B Answer: B [not A]
B Answer: B - not A
B Answer: B – because A
B Answer: B... A no
B Answer: B, though A is close
B Answer: B; though A is close
B Answer: B, A doesn't fit
B Answer: B and not A or C
B Answer: B, eliminating A and C
C The correct statement is C
B The correct response is B. Response A is wrong.
B The correct one is B. A is wrong.
B The right answer is B; D is incorrect.
B Correct option: B. Not D.
B Correct Answer: B (D is wrong)
B The answer should be B, not D.
B The answer will be B, not D.
B The answer has to be B, not D.
B Answer - B, not D
B answer is: B not D
B Final choice - B. D is wrong
B **Answer**⏎⏎B. green⏎⏎D is wrong.
C Answer: <b>C</b>
C Answer: <strong>C</strong>, not D
A Answer: <b>A</b> rock
B Answer: <em>green</em>
B Answer: <b>
C Answer: C<br>D is wrong
B Answer: <code>B</code>
A Answer: A (not B)
D Answer: A or D. I go with D.
"""

# More than one option is named, or none, or one that does not exist.
NONE_AFTER_A_MARKER = r"""
- The options are A, B, C, and D.
- Answer: A or B
- Answer: A, C
- Answer: A and C
- Answer: (A)(C)
- Answer: A/B
- Answer: Both A and B
- Answer: neither A nor B
- Answer: A & B
- Answer: A, B, and D
- Answer: (A) or (B)
- Answer: A or C?
- Answer: A; B
- Answer: either A or B
- Answer: A B
- Answer: **A** and **B**
- Answer: A or maybe B
- Answer: A, B
- Answer: [A, B]
- Answer: A and/or B
- Answer: red or blue
- Answer: A or option C
- Answer: A + B
- Answer: $A$ and $B$
- Answer: a or b
- Answer: a, c
- \boxed{A, C}
- Answer: 1 or 2
- Answer: A | B
- Answer: A and C are correct
- Answer: both
- Answer: A rather large mass
- Answer: A given amount
- Answer: a by-product
- Answer: E
- Answer: F
- Answer: 5
- Answer: 0
- Answer: 2nd
- Answer: 2 cm
- Answer: B-12
- Answer: B's
- Answer: Bob
- Answer: B12
- Answer: BC
- Answer: None of the above
- Answer: Don't know
- ANSWER: cannot be determined
- Answer: blue-green
- Answer: bluegreen
- Answer: greenish
- Answer: green light
- Answer: red/green
- Answer: red and green
- Answer: not red but green
- Answer: B is wrong
- Answer: not B
- The answer is not B.
- \boxed{A \text{ and } B}
- \boxed{\text{A or B}}
- Answer: A or B, most likely B
- Answer: A/C
- Answer: AB
- Answer: A&B
- Answer: All of A, B and C
- Answer: A,B,C
- Answer: A, or C
- Answer: B and C both
- Answer: (A), (C)
- Answer: (A)/(C)
- Answer: (A) & (C)
- Answer: A nor B
- Answer: A plus C
- Answer: none
- Answer: unknown
- Answer: I don't know
- Answer: N/A
- Answer: D&D
- Answer: A+
- Answer: C++
- Answer: C#
- Answer: E. coli
- Answer: A B-12
- The choices are A) red, B) green, C) blue, D) yellow
- Answer: two
- Answer: second
- Answer: -2
- Answer: 2%
- Answer: 2/4
- Answer: 2,3
- Answer: 2 and 3
- Answer: 2.5
- Answer: 02
- Answer: 12
- Answer: ²
- The answer is B or C.
- The answer is B and C are wrong
- The answer is neither.
- The answer is either B or C
- The answer is the third option
- The answer is C or it is D
- Answer: c or d
- Answer: (c) and (d)
- Answer: a or c
- Answer: A as well as B
- Answer: A along with B
- Answer: A → B
- Answer: A to D
- Answer: A-D
- Answer: A through D
- Answer: A vs B
- Answer: A - B
- Answer: A \& B
- Answer: A\\B
- Answer: A, B.
- Answer: A,B
- Answer: A , B
- Answer: A and B.
- Answer: A、B
- Answer: A，B
- Answer: A/ B
- Answer: A or/and B
- Answer: {A, B}
- Answer: \{A, B\}
- Answer: (A, B)
- Answer: A, B both
- Answer: A, also B
- Answer: A; also B
- Answer: A AND B
- Answer: A Or B
- Answer: **A** or **B**
- Answer: **A**, **B**
- Answer: `A`/`B`
- Answer: 'A' and 'B'
- Answer: “A” or “B”
- Answer: option A or option B
- Answer: Options A and B
- Answer: options A, B
- Answer: A (red) or B (green)
- Answer: A red and B green
- Answer: red, blue
- Answer: red/blue
- Answer: red & blue
- Answer: both red and blue
- Answer: neither red nor blue
- Answer: red or maybe blue
- Answer: B, nor C
- Answer: A or D
- Answer: A, D
- Answer: (A) and (D)
- Answer: A+B
- Answer: A & D
- Answer: A / D
- Answer: Either A or D
- Answer: Both (A) and (D)
- Answer: A, B, C
- Answer: A; D
- Answer: A and also D
- The answer is A and D.
- The answer is A or D.
- The answers are A and D.
- The correct answers are A and D
- The correct options are A and D.
- The answer is both A and D.
- \boxed{A,D}
- \boxed{AD}
- \boxed{A/D}
- The options are: A) red B) green C) blue D) yellow.
- The options are red, green, blue and yellow.
- Answer: D yellow or C
- Answer: <i>B</i> and <i>C</i>
- Answer: A (or B)
- Answer: A (and B)
- Answer: A (or maybe B)
"""

# No marker, but a statement that names the option.
STATEMENTS = r"""
B So it is B, which has vitamin C.
B It's B, as q = 5 C.
B A. red⏎B. green⏎C. blue⏎D. yellow⏎So B.
B B is correct. C is wrong.
B (B) is the correct answer. (C) is wrong.
B I choose B over C.
B Option B is correct. Option C is wrong.
B **B** is correct, A is not.
C I pick (C) over (D).
C I would go with option C, not D.
D I'll select D. A is bad
B We choose option B. A is ...
B It must be B. Not C, since D.
B So it is B. D is for dogs, C too.
C Therefore it is (C). A and B are out
B It should be the green.
B the green is correct
B green is the right answer. A is wrong
B A is correct. Wait, B is correct.
B Thus, B. As C is D
B My choice is B, not C
B B is best. C is worse
B B must be the correct answer, A and C are wrong
B Option B seems correct, C not so
B I chose B because A is wrong
B We pick B.
B So I select (B). D is out
D I will go with D. Not A, not C, not B
D Therefore, I choose D rather than A.
A I would choose A over B
B I choose green, not red
C My pick: C, not D
B B is the right one. A, C are no.
B B is clearly the correct answer; A isn't.
B B is the most likely correct answer. C
B "B" is correct, not C
B Option (B) is correct since C is not
B Choice b is correct. A is wrong
C It's C.
B It's the green.
B It is green.
B This is B, not C
D Hence (D). Not A
D So D, since A, B and C are wrong
D Thus D; A, B out
B I think it's B, not C
B I believe B is correct, C is not
B We know that B is correct. C isn't
B It must be green. Not red
C We reject A. We reject B. So C.
C so C, at 25 °C
B B) green is right⏎the end
D Since A, B, and C are all incorrect, D is the answer.
A A is the answer.
B B is the answer to the question, not A.
A I am going with A because x.
B I'm going with B over D.
B We should choose B, as C fails.
A I'd pick A, not B.
C let's choose C. D no.
B I have to choose B. A and C no
C Students often choose B. It is C.
C C is right, and A is wrong.
B A is wrong and B is correct.
B A is wrong, so B is right.
B While A is plausible, B is correct.
B Although A is correct in some cases, B is the best answer.
B It's not A, it's B.
B It is B, not A.
B It can only be B. A is no.
C It has to be C, A fails.
B That means it is B, not A.
A B, C, and D are wrong. So A
A So A
A So A.
A It is A
A It's A.
A A is the right one
A I pick A
A Therefore, A
C Options A and B are eliminated. D contradicts. So it's C
B B is right. D is wrong.
B (B) is right, (D) is not.
B Option B is right. D is not
B B is the correct choice, while D is not.
B B is the best answer. D is second best.
B B is the right answer because D is false.
B I'd go with B rather than D.
B I would select B, since D is wrong
B I select option B. D is wrong.
B I am choosing B; D is wrong
B I'm picking B over D
B I go with B. D is wrong
B I'd choose B over D
B I will choose B over D.
B My choice is B over D
B My choice: B. Not D
C So it is C, which has vitamin B.
C So it is C, as in figure B.
C It is C, since B has 5 A.
C A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎It is C.
B (A) red (B) green (C) blue (D) yellow⏎⏎So B.
A B is correct? No, A is correct.
B A seems right but it's B
B There are 4 options: A, B, C and D. B is best.
C A is wrong.⏎B is wrong.⏎C is right.⏎D is wrong.
B Because A is hot, B is right
B The rest (A, C, D) are wrong, so B.
"""

# Neither marker nor statement: lists of the options, lines that are an option, letters that stand alone.
WITHOUT_A_STATEMENT = r"""
- It is not D.
- So D is wrong.
- Not A, not C, not D.
- Eliminate A, C and D.
B B. As shown in Figure A
D D. carbon [C]
A A. The nitrogen gas in box A has a greater mass than the nitrogen gas in box B.
D D. Be, C, and O
- | A | red |⏎| B | green |⏎| C | blue |⏎| D | yellow |
- | Option | Text |⏎|---|---|⏎| A | red |⏎| B | green |⏎| C | blue |⏎| D | yellow |
B | Option | Verdict |⏎|:--|:--|⏎| A | too dark |⏎| B | fits |⏎| C | no |⏎| D | no |
- | **A** | red |⏎| **B** | green |⏎| **C** | blue |⏎| **D** | yellow |
- | (A) | red |⏎| (B) | green |⏎| (C) | blue |⏎| (D) | yellow |
- A | red⏎B | green⏎C | blue⏎D | yellow
- || A || red ||⏎|| B || green ||⏎|| C || blue ||⏎|| D || yellow ||
- | A. red | B. green | C. blue | D. yellow |
- | A | B | C | D |⏎|---|---|---|---|⏎| red | green | blue | yellow |
- | 1 | A | red |⏎| 2 | B | green |⏎| 3 | C | blue |⏎| 4 | D | yellow |
B | Option | Text |⏎|---|---|⏎| A | red |⏎| B | green |⏎| C | blue |⏎| D | yellow |⏎⏎Answer: B
B | A | no |⏎| B | yes |⏎| C | no |⏎| D | no |⏎⏎So the answer is B.
B | B | green |
- | B | C |
- A. red⏎B. green⏎C. blue⏎D. yellow
- (A) red (B) green (C) blue (D) yellow
- A) red⏎B) green⏎C) blue⏎D) yellow
- A. red B. green C. blue D. yellow
- (A) red⏎(B) green⏎(C) blue⏎(D) yellow⏎
- - A. red⏎- B. green⏎
- * A: red⏎* B: green⏎* C: blue
- **A.** red⏎**B.** green⏎**C.** blue⏎**D.** yellow
B A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎B
B A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎B. green
- A. red, B. green, C. blue, D. yellow
- A red⏎B green⏎C blue⏎D yellow
- B. green⏎C. blue⏎D. yellow
- red⏎green⏎blue⏎yellow
B {"answer": "B", "reason": "not D"}
B <answer>B</answer> rather than D
B ## Final Answer⏎⏎**B**⏎⏎A is wrong
C Wrong answer: A⏎Correct answer: C
C Incorrect answer: B. Answer: C
C The student's answer: A, which is wrong.⏎Answer: C
B Possible answer: A (too small).⏎Possible answer: B (fits).⏎Answer: B
C My first answer: D⏎Final answer: C
- neither A nor B is correct
- A or B is correct
- A is not correct
C if B is correct, then C
C Is B correct? C
- Not B is correct
- B isn't correct
- I would not choose B
- Don't pick B.
- Why choose B?
- A and B are correct
- I don't think B is correct
- B is the best conductor of A
- B is right of A
C Not A but C
- A is wrong
C C, or B-12 and A's
C C at 20 °C
C C (see U.S.A.)
- °C
- ° C
- 5 C
B Éa B, ÀC
B 答案是B。
- Option A is about density, B about years.
B B
B b
B (b)
B B.
B **B**
B B) green
B B: green
B B green
B green
B Green.
B the green
B **green**
A A red
B 2
B B⏎C is wrong
B B⏎⏎Explanation: A and C are wrong, D is yellow.
- The light is green
- A rock falls
- I think
B I think B
- Why not B?
B Unlike C, B fits
- vitamin C
- Figure A
- Plan B
- an A
- E = mc^2
B B with E = mc^2
- We can rule out A, C and D.
- Cross out A and D.
B A, C and D are wrong, leaving B.
C A: wrong⏎B: wrong⏎C: correct⏎D: wrong
- So B or C.
- A is incorrect, B is incorrect.
- D can be eliminated.
B That leaves B
D Option D
D Option D: yellow
- (A)(C)
- A, C
- A or B
B The letter is B
B I'd say B, not A
- I choose the green one
B B, the green one, is correct
B B: correct
- It is green. The sky is blue
D That is why it is D. Not A
D So, the answer: D. A no
- so it must be B or C
- It is either B or C
- It could be B
- It might be B.
C If it is B, then C
- Not B.
- A isn't right.
- B doesn't fit.
- C can't be right.
- All but D are wrong
- Everything but D is wrong
- None of A, B, C fits.
- The letter grade was B
- grade: B
- B+
- Group B grew
- Hepatitis B
- Vitamin A and vitamin C
- point A to point B
- Figure A shows box B
- Angle A
- Step A
- Plan A failed
- carbon (C)
C [C]
C the C
- x = A
- A = 5
- A/B
- B cells
- J. B. Smith
- type A blood
C C is 5 C
C C. 5 C
- DNA has A, C, G and T
C Wait, A? No, C
C A? B? C!
B B, i.e. green
C Say C
C C!
C - C
C * C
C > C
C 1. C
C C⏎
C ⏎⏎C⏎⏎
C (C)⏎
C 'C'
C C;
C C,
C c.
C c
A a
A A
A A.
- I
- E
- a rock
- 5
C 3
A red
A RED.
- red or green
- red⏎⏎green
- A⏎⏎B
B B⏎⏎B
B B⏎⏎because it is green
- B. green⏎A. red
B B. The answer
- D: yellow⏎E: none
- Options: A red, B green, C blue, D yellow
- A. red⏎⏎B. green⏎⏎C. blue
- 1. A⏎2. B
- (A) red; (B) green; (C) blue
- A)red⏎B)green
- A - red⏎B - green⏎C - blue
C A. Red.⏎B. Green.⏎C. Blue.⏎D. Yellow.⏎⏎The best is C.
- [A] red [B] green [C] blue [D] yellow
- Choose from A, B, C, D
- Please answer with A, B, C, or D
- A, B, C, D
- A B C D
- Which is it: A, B, C or D?
C A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎Option C
D A. red⏎B. green⏎C. blue⏎D. yellow⏎D. yellow
- A. red⏎B. green⏎A. red⏎B. green
- a. red⏎b. green⏎c. blue
- a) red b) green c) blue d) yellow
- Let's see. Red is a warm colour. Green is not.
C Option C best fits the description.
B B fits best.
B After considering all options, B makes the most sense. A is off.
B B makes the most sense.
B So, the correct one is B
B I would say the answer is B, C is close
B You should choose B.
C Hence the letter is C, and not A
C In conclusion, C.
C In conclusion, (C) blue.
C **C**⏎⏎Reason: A is wrong.
B It's not A; B.
B It is not A but B.
B Not (A), but (B).
C This leaves C. A is bad
B So we are left with B and not A.
B the answer: (B) green
B I'm not sure, maybe B
- B, C, and D are wrong.
A So A is it
A A!
A (A)
A A) red
- so a
- The light from the star A is red
- Element C has 6 protons
- In case B, x
- Section D
C C. elegans
A A. I think
B B - green
B B – green
B B: because A
B [B]
B {B}
B “B”
B ‘B’
B Ｂ
B B。
B 选B
- 选择B，因为A
B 正确答案是B
B B‹200B›
B ‹FEFF›B
B B␍⏎
B B␍⏎␍⏎because
- B or, more likely, C
- Between B and C, C
- Both B and C
- (B) and (C)
- B & C
- A; B; C; D
- A⏎B⏎C⏎D
- I'd choose between A and B
- either B or C
- B/C
- B, C
- Either (B) or (C) is correct
- Only B and D are correct
- both A and C are correct
- All of the options A, B, C are right
- A, B, and C are correct
- B is correct and so is C
C We know A is wrong. B is too. D might fit. C is it.
- Neither A nor D.
- Rule out B
C Ruling out B, we get C
C Excluding A and B, C fits
- Exclude A, B and D
C A ✗ B ✗ C ✓ D ✗
- A is false.
B B is true.
- It cannot be A.
- It can't be B or C
- A is not the answer.
- B is hardly correct
- B is never correct
- No, not D
- D? No.
- D isn't
- D does not
- D fails
- D won't work
- D is no good
- D is too hot
- D is unlikely
B My answer: B. D is wrong.
B Our answer is B and D is wrong
B {"answer":"B","why":"not D"}
B {'answer': 'B', 'why': 'D'}
B <answer>(B)</answer> D
B <answer>B. green</answer> not D
B ### Answer⏎B⏎⏎D is wrong
- I choose A and D.
- I choose A or D.
- So it is A or D.
- A and D are correct.
- Both A and D are correct.
- A, B and D.
- ABD
- A D
- A & D
- [A, D]
- {A, D}
- A+D
- A/D
- It is not B.
- So B is wrong.
- Not B, not C.
- Eliminate B and C.
- B is incorrect.
- B is not the answer.
- I eliminate B.
- B can be ruled out.
- We can eliminate B and C.
- B is out.
- Anything but B.
- Definitely not B.
- B isn't correct.
- B cannot be correct.
- It can't be B.
- B is false, C is false.
- The wrong ones are A and C.
- A is wrong because of D.
- B and C are incorrect.
- B, C, D are not correct
- Wrong: B
- Incorrect: B
- B ✗
- B (incorrect)
- B - wrong
- B is a distractor.
- Cross out B
- Exclude B.
- Reject B.
- Dismiss B
- Discard B
- Ignore B
- Avoid B
- Remove B
- Without B
- Not option B
- not (B)
- neither B nor C
- None of B, C
C C because the box B is heavier
C C with F = ma and E = B
C C. Figure A shows it
C C. Box A is heavier than box B
D D. boron [B]
D D. A, B and C
A A. B is for boron
B B. Vitamin C
C C) A rock
D (D) box A
A A: see B
B B - vitamin C
D D, as box A and box B differ
- vitamin D helps
- a 5 A current
- the U.S. and D.C.
- C major
- Hepatitis B and C
- room A
- At 30 C
- I got a C
- Type A and type B
- sample A has more mass than sample B
A pH of A
- Plan A is better than plan B
- Mr. A
- Dr. B
- Options:⏎A. red⏎B. green⏎C. blue⏎D. yellow
- Choices:⏎(A) red⏎(B) green⏎(C) blue⏎(D) yellow⏎The answer
- A: red, B: green, C: blue, D: yellow
- A = red, B = green, C = blue, D = yellow
- A-red, B-green
- Question: x⏎A. red⏎B. green
- A. Red⏎B. Green⏎C. Blue⏎D. Yellow⏎
- A. red⏎⏎⏎B. green⏎⏎⏎C. blue⏎⏎⏎D. yellow
- A.red⏎B.green⏎C.blue⏎D.yellow
- A)red B)green C)blue D)yellow
- [A] red⏎[B] green⏎[C] blue⏎[D] yellow
- The possible answers are A, B, C, or D.
- Select one of A, B, C, D
- A, B, C, or D?
- (A), (B), (C), (D)
A A. red⏎B. green⏎C. blue⏎D. yellow⏎A. red
C A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎C
C A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎(C)
C A. red⏎B. green⏎C. blue⏎D. yellow⏎⏎blue
- A. red⏎B. green⏎C. blue⏎D. yellow⏎E. none
- - red⏎- green⏎- blue⏎- yellow
- 1. red⏎2. green⏎3. blue⏎4. yellow
- 1) red 2) green 3) blue 4) yellow
- red, green, blue, yellow
- A) red⏎B) green⏎C) blue⏎D) yellow⏎⏎Let's look at each option.
- a) red⏎b) green⏎c) blue⏎d) yellow
B A. red B. green C. blue D. yellow⏎B
C <p>C</p>
- D. yellow or C. blue
- Let's go through the options. A: hot. B: cold. C: cold. D: cold.
C A: hot. B: cold. C: yes. D: cold.
B A is a warm colour. B is cold. So the light is B.
- A is wrong.⏎B is wrong.⏎D is wrong.
B B because A is wrong
B Only B fits, since A, C and D are wrong.
- A < B
"""

# Other options --------------------------------------------------------------------------------------------------------

OTHER_OPTIONS: tuple[tuple[tuple[str, ...] | None, str], ...] = (
    (
        MASKS,
        r"""
A Answer: A safety goggles
B Answer: A breathing mask
B Answer: a breathing mask
B breathing mask
B A breathing mask.
B It should be the breathing mask.
B Answer: B breathing mask
B The breathing mask is correct. Safety goggles are not.
A Answer: (A) safety goggles
A Answer: A - safety goggles
A Answer: **A** safety goggles
B Answer: breathing  mask
B Answer: Breathing␉Mask
A A. safety goggles
A A: safety goggles.
A Answer: A, safety goggles
- Answer: breathing masks
A Answer: A safety goggles, not B
- Answer: A safety goggles or B breathing mask
A The answer is A safety goggles because they protect
A Answer: A safety goggles protect the eyes
A Answer: A. breathing mask
B breathing mask is the answer
B The answer is a breathing mask.
D The answer is the lead apron, not the gloves
B I would choose the breathing mask.
C I'd pick rubber gloves over a lead apron
B So it is the breathing mask.
C It must be the rubber gloves. Not the lead apron.
B It is a breathing mask.
B A breathing mask is the correct answer.
B A breathing mask would be the best choice.
B Breathing mask.
B a breathing mask
B the breathing mask.
B **breathing mask**
B "breathing mask"
B Breathing Mask
B (breathing mask)
B Answer: (breathing mask)
B Answer: “Breathing mask”.
- Answer: breathing-mask
- Answer: breathing mask and rubber gloves
- Answer: breathing mask or rubber gloves
- Answer: not the breathing mask
- safety goggles⏎breathing mask⏎rubber gloves⏎lead apron
- safety goggles, breathing mask, rubber gloves, lead apron
A safety goggles⏎safety goggles
""",
    ),
    (
        ("2 cm", "4 cm", "8 cm", "16 cm"),
        r"""
B Answer: 4
B Answer: 4 cm
- Answer: 3 cm
A Answer: 2
- Answer: 3
C Answer: 8 cm.
- Answer: 4 inches
B Answer: 4 because
B Answer: 4.0 cm
B Answer: 4‹00A0›cm
B Answer: $4$ cm
B Answer: 4\text{ cm}
B Answer: B
- Answer: 40 cm
- Answer: 4 cm^2
- Answer: 4 or 8
B \boxed{4}
B \boxed{4\text{ cm}}
- Answer: -4
D Answer: 16
B 4
C 8
B The answer is 4
B The answer is 4.
- The answer is 4 centimeters
B Answer: 4cm
- Answer: four
- Answer: 4 m
- Answer: 4 cm long
B Answer: B. 4 cm
B Answer: B 4 cm
B Answer: B (4 cm)
A Answer: A (4 cm)
B 4 cm
B 4 cm.
B Answer: about 4 cm
B Answer: 4 cm, not 8 cm
- Answer: 2 cm or 4 cm
- Answer: 1
""",
    ),
    (
        ("4 centimeters", "8 centimeters", "12 centimeters", "16 centimeters"),
        r"""
A Answer: 4
C Answer: 12
""",
    ),
    (
        ("100%", "90%", "70%", "3%"),
        r"""
D Answer: 3
D Answer: 3%
B Answer: 90
- Answer: 1
D Answer: 3 %
D Answer: 3\%
""",
    ),
    (
        ("4", "3", "2", "1"),
        r"""
A The correct answer is: 4
B The answer is 3
D Answer: 1
A Answer: 4.00
A Answer: 4.
- Answer: 5
- Answer: 4/3
""",
    ),
    (
        ("a rock", "water", "Sunlight energy.", "4"),
        r"""
D Answer: 4
C Answer: 3
- Answer: 3.5
- Answer: waterfall
B The answer is water
A Answer: A rock
C Answer: sunlight  energy
B Answer: WATER is it
A Answer: A is right
C Answer: A big one, so C
B Thus B. A big rock
B Answer: E, I mean B
B the answer is 2
A Answer: rock
A Answer: the rock
A Answer: a rock
B Answer: B
B answer: (b)
B Answer: B. water
B **Answer:** **B**
B **Answer**: B
B Answer: option B
B Answer: 2
B Answer: \text{B}
B Final answer: B
B Answer: B⏎Answer: C
B Answer: water
- Answer: E
- Answer: Bob
C the answer is B. Answer: C
B \boxed{\text{B}} the answer is C
B #### B
B The final answer is (B)
B the answer is A. the answer is B. C
D The correct answer is option d.
- Not a but c
B B⏎Question: A or C?
""",
    ),
    (
        ("1,000 grams", "2,000 grams", "100 grams", "10 grams"),
        r"""
A Answer: 1000 grams
A Answer: 1,000 grams
A Answer: 1,000
A Answer: 1‹202F›000 grams
A Answer: 1{,}000 grams
C Answer: 100 grams
""",
    ),
    (
        ("$\\frac{1}{2}$", "$\\frac{1}{3}$"),
        r"""
A Answer: \(\frac{1}{2}\)
A Answer: 1/2
A Answer: \frac12
B Answer: \dfrac{1}{3}
A Answer: ½
B \boxed{\frac{1}{3}}
""",
    ),
    (
        ("Newton's law", "Ohm's law", "café", "CO₂"),
        r"""
A Answer: Newton’s law
C Answer: cafe‹0301›
C Answer: CAFÉ
D Answer: CO2
D Answer: CO_2
D Answer: $\mathrm{CO_2}$
D Answer: CO_{2}
""",
    ),
    (
        ("2 × 3", "2 + 3"),
        r"""
A Answer: 2 x 3
A Answer: 2 × 3
B Answer: 2 + 3
A Answer: 2 \times 3
A Answer: 2 * 3
""",
    ),
    (
        ("R", "rr", "Rr", "RR"),
        r"""
A Answer: R
B Answer: rr
C Answer: Rr
D Answer: RR
A R
""",
    ),
    (
        ("B", "A", "C"),
        r"""
A Answer: A
B Answer: B
""",
    ),
    (
        ("s", "t", "u", "v", "w", "x", "y", "z"),
        r"""
G Answer: 7
H Answer: 8
- Answer: 9
G Answer: G
A Answer: s
""",
    ),
    (
        ("red", "both red and blue", "blue", "A and C"),
        r"""
B Answer: both red and blue
D Answer: A and C
- Answer: Both A and C
""",
    ),
    (
        ("T cells", "B cells"),
        r"""
B Answer: B cells
A Answer: A T cells
A Answer: A
""",
    ),
    (
        ("B cells", "T cells"),
        r"""
A Answer: B cells
B Answer: B T cells
B Answer: B
""",
    ),
    (
        ("-5", "5", "0"),
        r"""
A Answer: -5
B Answer: 5
A Answer: −5
""",
    ),
    (
        None,
        r"""
E Answer: E
- Answer: F
E Answer: 5
- Answer: 6
- so E or F
- A) foo⏎B) bar⏎C) baz
B (A) is wrong, so (B).
- The options are A, B, C, and D.
B B. C
C C. 12
C C. A pretty girl
""",
    ),
    (
        ("the Sun", "the Moon", "Mars", "a star"),
        r"""
A Answer: Sun
A Answer: the sun
A Answer: The Sun.
B Answer: Moon
D Answer: a star
D Answer: star
D Answer: A star
A Answer: A the Sun
A Answer: A. the Sun
A Answer: A Sun
D Answer: D star
A Sun
B The Moon
C It's Mars.
B It must be the Moon.
B The Moon is the correct answer. Mars isn't.
""",
    ),
    (
        ("heat", "heat energy", "light", "sound"),
        r"""
A Answer: heat
B Answer: heat energy
B Answer: A heat energy
A Answer: A. heat energy
- Answer: heat-energy
- Answer: heat and light
A Answer: heat, not light
- Answer: light, sound
""",
    ),
    (
        ("1/2", "1/4", "0.75", "2"),
        r"""
A Answer: 1/2
C Answer: 0.75
C Answer: .75
D Answer: 2
- Answer: 1
B Answer: \frac{1}{4}
- Answer: 3
B Answer: ¼
B Answer: 1/4 of it
""",
    ),
    (
        ("$5", "$10", "$15", "$20"),
        r"""
B Answer: $10
B Answer: 10
B Answer: \$10
- Answer: 10 dollars
A Answer: $5.00
- Answer: $1
- Answer: $10.50
""",
    ),
    (
        ("Be, C, and O", "H and He", "B", "N, C"),
        r"""
A Answer: A. Be, C, and O
A Answer: A Be, C, and O
A A. Be, C, and O
A Answer: Be, C, and O
B Answer: H and He
D Answer: D. N, C
D Answer: D N, C
B Answer: B
""",
    ),
    (
        ("x", "y", "z", "w"),
        r"""
A Answer: x
A Answer: $x$
C Answer: Z
""",
    ),
    (
        ("O₂", "CO₂", "H₂O", "N₂"),
        r"""
C Answer: H2O
C Answer: h2o
B Answer: CO2.
C Answer: \text{H}_2\text{O}
C Answer: H_2O
C Answer: C H2O
B Answer: A CO2
A Answer: O2
C Answer: H<sub>2</sub>O
B Answer: CO<sub>2</sub>
""",
    ),
    (
        ("one A", "two B", "three C", "four D"),
        r"""
A Answer: one A
B Answer: two B
A Answer: A
C Answer: C. three C
C Answer: C three C
A A. one A
C three C
D D. four D
""",
    ),
    (
        ("decrease", "increase", "stay the same", "increase, then decrease"),
        r"""
B Answer: increase
D Answer: increase, then decrease
B Answer: B increase
D Answer: D. increase, then decrease
B Answer: it will increase
- Answer: the same
- It will increase.
- Answer: decrease and then increase
C Answer: Stay the same.
""",
    ),
    (
        ("5 m/s", "10 m/s", "15 m/s", "20 m/s"),
        r"""
B Answer: 10 m/s
- Answer: 10 m/s²
B Answer: 10
B Answer: $10\,\text{m/s}$
- Answer: 10 km/h
B Answer: 10m/s
B Answer: \(10 \mathrm{~m/s}\)
""",
    ),
    (
        ("−40 °C", "0 °C", "20 °C", "100 °C"),
        r"""
A Answer: -40 °C
C Answer: 20 °C
C Answer: 20°C
C Answer: $20^\circ$C
C Answer: $20^{\circ}\mathrm{C}$
- Answer: 20 degrees
D Answer: 100
- Answer: 40
A Answer: −40
C Answer: C
""",
    ),
    (
        ("10,000", "1,000", "100", "10"),
        r"""
- Answer: 10 000
A Answer: 10000
B Answer: 1000
D Answer: 10
B Answer: 1,000.0
A Answer: 10‹00A0›000
""",
    ),
    (
        ("x > 5", "x < 5", "x = 5", "x ≥ 5"),
        r"""
A Answer: x > 5
B Answer: $x < 5$
C Answer: x = 5
D Answer: x ≥ 5
""",
    ),
    (
        ("The heart.", "The lungs.", "The liver.", "The brain."),
        r"""
A Answer: heart
B Answer: The lungs
C the liver
D It is the brain.
A The heart is the correct answer, not the lungs.
B Answer: lungs because
""",
    ),
    (
        ("nature of A", "B. C.", "C, D", ""),
        r"""
A Answer: A
D Answer: D
A Answer: nature of A
""",
    ),
    (
        ("Yes", "No"),
        r"""
B Answer: No
A Answer: Yes, it is
B Answer: no
A Yes
B No.
A Answer: A
- Answer: C
- Answer: Yes and no
B Answer: 2
- Answer: 3
""",
    ),
    (
        ("a heart", "an organ", "the lung", "A cell"),
        r"""
D Answer: A cell
A Answer: heart
B Answer: An organ
A Answer: A heart
D Answer: a cell
A Answer: A a heart
A Answer: A. a heart
D Answer: D A cell
B It is an organ.
B an organ
""",
    ),
    (
        ("R", "rr", "Rr", '"RR of it"'),
        r"""
C Answer: Rr
B Answer: rr
B Answer: rR
D Answer: RR of it
D Answer: "RR of it"
""",
    ),
    (
        ("water", "room 5"),
        r"""
B Answer: room 5
B Answer: room 5.
- Answer: room 5.2
- Answer: room 5%
- Answer: room 52
- Answer: room 5/2
""",
    ),
)


BLOCKS = (AFTER_A_MARKER, NONE_AFTER_A_MARKER, STATEMENTS, WITHOUT_A_STATEMENT)


@pytest.mark.parametrize("block", BLOCKS)
def test_colours(block: str, either: str) -> None:
    expected = cases(block)
    assert dict(zip(expected, extract_answers(list(expected), "choice", options=COLOURS), strict=True)) == expected


@pytest.mark.parametrize(("options", "block"), OTHER_OPTIONS)
def test_other_options(options: tuple[str, ...] | None, block: str, either: str) -> None:
    expected = cases(block)
    assert dict(zip(expected, extract_answers(list(expected), "choice", options=options), strict=True)) == expected


def test_boxed_choices(either: str) -> None:
    """If the problem has options, a box contains one of them."""
    options = ("a rock", "water", "Sunlight energy.", "4")
    texts = ["\\boxed{water}", "\\boxed{b}", "\\boxed{x+1}"]
    assert extract_answers(texts, "boxed", options=options) == ["B", "B", None]


@pytest.mark.parametrize(
    ("gold", "options", "letter"),
    [
        ("B", COLOURS, "B"),
        ("b", COLOURS, "B"),
        ("(B)", COLOURS, "B"),
        ("green", COLOURS, "B"),
        ("Green.", COLOURS, "B"),
        ("2", COLOURS, "B"),
        ("green light", COLOURS, None),
        ("A or B", COLOURS, None),
        ("E", COLOURS, None),
        ("5", COLOURS, None),
        ("0", COLOURS, None),
        ("", COLOURS, None),
        ("4", ("2 cm", "4 cm", "8 cm", "16 cm"), None),
        ("4 cm", ("2 cm", "4 cm", "8 cm", "16 cm"), "B"),
        ("4", ("4", "3", "2", "1"), "A"),
        ("A", ("B", "A", "C"), "A"),
        ("R", ("R", "rr", "Rr", "RR"), "A"),
        ("Rr", ("R", "rr", "Rr", "RR"), "C"),
        ("7", tuple("stuvwxyz"), "G"),
        ("E", None, "E"),
        ("F", None, None),
    ],
)
def test_whole_choice(gold: str, options: tuple[str, ...] | None, letter: str | None) -> None:
    encoded = None if options is None else [option.encode() for option in options]
    assert whole_choice(gold.encode(), encoded) == letter


# Every option in many phrasings ---------------------------------------------------------------------------------------

# l: the option's letter, o: another letter, t: the option's text, p: the text without its full stop.
PHRASINGS = {
    "letter": "Answer: {l}",
    "letter, reason": "Answer: {l} because of this.",
    "letter, not another": "Answer: {l}, not {o}.",
    "letter text": "Answer: {l} {t}",
    "letter. text": "Answer: {l}. {t}",
    "(letter) text": "Answer: ({l}) {t}",
    "letter) text.": "Answer: {l}) {p}.",
    "letter: text": "Answer: {l}: {t}",
    "bold letter, text": "**Answer:** **{l}** {t}",
    "all bold": "**Answer: {l}. {t}**",
    "text": "Answer: {t}",
    "text.": "Answer: {p}.",
    "bold text": "Answer: **{t}**",
    "quoted text": 'Answer: "{t}"',
    "is letter": "The answer is {l}.",
    "is letter text": "The answer is {l} {t}",
    "is letter, text": "The correct answer is {l}, {p}.",
    "is text": "The answer is {t}",
    "is text.": "The correct answer is: {p}.",
    "option is": "The correct option is {l}. Option {o} is wrong.",
    "is correct": "{l} is correct. {o} is wrong.",
    "option is correct": "Option {l} is the correct answer, since {o} is not.",
    "I choose": "I choose {l} over {o}.",
    "so it is": "So it is {l}, not {o}.",
    "JSON": '{{"answer": "{l}", "reason": "not {o}"}}',
    "tag": "<answer>{l}</answer> rather than {o}",
    "box": "\\boxed{{{l}}}",
    "box, letter and text": "\\boxed{{\\text{{{l}: {t}}}}}",
    "box, text": "\\boxed{{\\text{{{t}}}}}",
    "heading": "## Final Answer\n\n**{l}**\n\n{o} is wrong.",
    "whole: letter": "{l}",
    "whole: letter. text": "{l}. {t}",
    "whole: (letter) text": "({l}) {t}",
    "whole: letter text": "{l} {t}",
    "whole: text": "{t}",
    "whole: text.": "{p}.",
    "last line": "Let me think.\n\n{l}. {t}",
    "list, then letter": "{lines}\n\n{l}. {t}",
    "list": "{lines}",
    "list in a line": "{line}",
}
# Texts without an answer.
LISTS = ("list", "list in a line")


def phrased(options: tuple[str, ...], index: int, phrasing: str) -> str:
    """The text that names an option in one of the phrasings."""
    letters = [chr(ord("A") + i) for i in range(len(options))]
    return PHRASINGS[phrasing].format(
        l=letters[index],
        o=letters[(index + 1) % len(options)],
        t=options[index],
        p=options[index].rstrip(". "),
        lines="\n".join(f"{letter}. {text}" for letter, text in zip(letters, options, strict=True)),
        line=" ".join(f"({letter}) {text}" for letter, text in zip(letters, options, strict=True)),
    )


def sweep(problems: list[tuple[str, ...]]) -> Iterator[tuple[str, str, str, str | None, tuple[str, ...]]]:
    """(phrasing, letter, text, answer, options) of every option of the problems in every phrasing."""
    for phrasing in PHRASINGS:
        named = [(options, i) for options in problems for i in range(len(options))]
        texts = [phrased(options, i, phrasing) for options, i in named]
        answers = extract_answers(texts, "choice", options=[options for options, _ in named])
        for (options, i), text, answer in zip(named, texts, answers, strict=True):
            yield phrasing, chr(ord("A") + i), text, answer, options


def invented_problems(num_problems: int) -> list[tuple[str, ...]]:
    """Our own options: words, sentences, quantities, formulas, letters inside the texts; in any order."""
    rng = random.Random(5)
    sets = [
        ["a copper wire", "the Moon", "an iron nail", "Glass"],
        ["It gets colder.", "It gets warmer.", "It stays the same.", "It cannot be known."],
        ["1,000 grams", "2,500 grams", "100 grams", "10 grams"],
        ["2 cm", "4 cm", "8 cm", "16 cm"],
        ["75%", "50%", "25%", "5%"],
        ["4", "3", "2", "1"],
        ["CO₂", "H₂O", "NaCl", "O₂"],
        ["H, O, and C", "only N", "Na and Cl", "none of them"],
        ["move the box from point A to point B", "leave box C", "add vitamin D", "wait, then stop"],
        ["decrease", "increase", "increase, then decrease", "not change"],
        ["because A is heavier than B", "is not correct", "are no longer used", "to be or not to be"],
        ["-5 °C", "0 °C", "5 °C", "21.50 °C"],
        ["Ohm's law", "Newton’s law", "“Hooke's” law", "the café effect"],
        ["RR", "Rr", "rr", "a mixture"],
        ["blue", "blue-green", "green", "dark blue"],
        ["answer a question", "choose option 2", "pick one", "state the answer"],
    ]
    return [tuple(rng.sample(texts := rng.choice(sets), len(texts))) for _ in range(num_problems)]


def test_every_phrasing_of_every_option(either: str) -> None:
    """A is read as well as any other letter, and a list of the options is not an answer."""
    for phrasing, letter, text, answer, options in sweep(invented_problems(50)):
        assert answer == (None if phrasing in LISTS else letter), (phrasing, text, options)


@pytest.mark.slow
def test_every_option_of_arc(shared_data: Path) -> None:
    """All 14,188 options in every phrasing. With -s it prints how many are read for each letter and phrasing.

    An option whose text is the letter of another one ("C" for carbon as option A) is read as that label.
    """
    files = ("ARC-Challenge-Test.jsonl", "ARC-Easy-Test.jsonl")
    rows = [json.loads(row) for name in files for row in (shared_data / "arc" / name).read_text("utf-8").splitlines()]
    problems = [tuple(row["choices"]["text"]) for row in rows]
    read, named, missed = Counter[tuple[str, str]](), Counter[tuple[str, str]](), []
    for phrasing, letter, text, answer, options in sweep(problems):
        named[phrasing, letter] += 1
        if answer == (None if phrasing in LISTS else letter):
            read[phrasing, letter] += 1
        elif options[ord(letter) - ord("A")] not in ("A", "B", "C", "D"):
            missed.append((phrasing, text, answer, options))
    for phrasing in PHRASINGS:
        print(f"{phrasing:22}", *(f"{read[phrasing, letter]}/{named[phrasing, letter]}" for letter in "ABCD"))
    assert sum(named[phrasing, letter] for phrasing in ("letter",) for letter in "ABCDE") == 14_188
    assert missed == []


# The core and the reference -------------------------------------------------------------------------------------------

_WORDS = (
    "A|B|C|D|E|I|a|b|(|)|[|]|.|,|;|:|?|!|\n|\n\n| |and|or|nor|not|is|is wrong|is correct|the|correct"
    "|answer|Option|it is|It's|must be|so|Thus|I choose|vitamin|5|2|1/2|°|%|^|$|\\(|\\text{|{|}"
    "|\\frac{1}{2}|\\frac12|**|*|`|_|é|e\u0301|Ｂ|Ⓑ|𝐁|🅱|①|\xa0|\u2009|—|–|−|×|²|³|₂|½|“|”|’|…|→|->"
    "|==>|--|。|、|red|green|blue|Answer: |The answer is |\\boxed{|because|as well as|along with"
    "|rather than|instead of|either|neither|n't|A's|B-12|U.S.A|3.50|1,000|.5|-5|- |\x01|\"|'|\\circ"
    "|^\\circ|\\times|\\cdot|\\left|\\right|\\,|\\!|~|\\\\|\u200b|seems to be|can only be|my pick:|<b>|</b>|<br>"
    "|grade of|then|vs.|No. 2"
)
_PIECES = [word.encode() for word in _WORDS.split("|")]
_TORN = [b"\xff", b"\xe2", b"\x88", b"\xf0\x9d", b"\xe2\x82", b"\xcc", b"\0", b"\xed\xa0\x80"]
_TORN += [b"\xf0\x80\x81\x81", b"\xe0\x80\x80"]


def mutated(rng: random.Random, texts: list[bytes]) -> bytes:
    """Fragments that the rules react to, or a case of this file with a few changes."""
    if rng.random() < 0.4:
        return rng.choice((b" ", b"")).join(rng.choices(_PIECES, k=rng.randint(1, 16)))
    text = bytearray(rng.choice(texts))
    if rng.random() < 0.4:
        text += rng.choice((b"\n", b" ", b". ")) + rng.choice(texts)
    for _ in range(rng.randint(0, 4)):
        begin = rng.randrange(len(text) + 1)
        text[begin : begin + rng.randint(0, 6)] = rng.choice(_TORN if rng.random() < 0.2 else _PIECES)
    return bytes(text)


def check_agreement(num_texts: int, seed: int) -> None:
    rng = random.Random(seed)
    blocks = [*BLOCKS, *(block for _, block in OTHER_OPTIONS)]
    texts = [text.encode() for block in blocks for text in cases(block)]
    option_sets = [options for options, _ in OTHER_OPTIONS]
    option_sets += [COLOURS, ("a a a", "b"), ("the", "a", "an", "I", "x"), ()]
    num_answers = 0
    for _ in range(num_texts // 50):
        spec = Spec.of("choice", COLOURS if rng.random() < 0.3 else rng.choice(option_sets))
        batch = [mutated(rng, texts) for _ in range(50)]
        for text, answer in zip(batch, read_with_core(batch, spec), strict=True):
            assert answer == reference.read_answer(text, spec), (text, spec.options)
            num_answers += answer[1] is not None
    assert num_answers > num_texts / 4


@needs_core
def test_core_agrees_with_reference() -> None:
    check_agreement(5_000, 1)


@pytest.mark.slow
@needs_core
def test_core_agrees_on_200_000_texts() -> None:
    check_agreement(200_000, 2)


def test_hostile_texts_end(either: str) -> None:
    """A reader with unbounded look-behind or look-ahead would not finish; the test has a timeout of a minute."""
    size = 20_000 if either == "core" else 1_000
    parts = 'A|A |A or |a |(|\x01|"|B is |and |option |A. |(A) a |A is wrong, |_|**|\\frac{|1,000|.1|it is |\n|A\n|A.\n'
    parts += "|not |- |é|A, |the |green is correct and |vs |²|as well "
    texts = [prefix + part * size for part in parts.split("|") for prefix in ("", "Answer: ")]
    for options in (COLOURS, ("a " * 40, "a", '"(A'), None):
        assert len(extract_answers(texts, "choice", options=options)) == len(texts)
