"""Solved questions for few-shot prompts, written for fastsia and not taken from a data set."""

from __future__ import annotations

from fastsia.config import AnswerFormat
from fastsia.tasks.task import Exemplar

NUMBER = (
    Exemplar(
        "A bakery bakes 12 trays with 15 rolls each. By noon 134 rolls are sold. How many rolls are left?",
        "The bakery bakes 12 * 15 = 180 rolls. After noon 180 - 134 = 46 rolls are left.",
        "46",
    ),
    Exemplar(
        "Ilse rides her bike 9 kilometres to work and back again on 5 days a week. How far does she ride in 4 weeks?",
        "There and back is 9 * 2 = 18 kilometres. In a week that is 18 * 5 = 90 kilometres. In 4 weeks it is "
        "90 * 4 = 360 kilometres.",
        "360",
    ),
    Exemplar(
        "A ticket to the zoo costs $14, and children pay half. What do 2 adults and 3 children pay together?",
        "Two adults pay 2 * 14 = 28 dollars. A child pays 14 / 2 = 7 dollars, so three pay 3 * 7 = 21 dollars. "
        "Together that is 28 + 21 = 49 dollars.",
        "49",
    ),
    Exemplar(
        "Tarek saves 35 dollars a month. He wants a guitar for 260 dollars and has 50 dollars already. After how many "
        "months can he buy it?",
        "He still needs 260 - 50 = 210 dollars. At 35 dollars a month that takes 210 / 35 = 6 months.",
        "6",
    ),
    Exemplar(
        "A water tank holds 900 litres and is one third full. A pump adds 25 litres a minute. How many minutes does it "
        "take to fill the tank?",
        "One third of 900 is 900 / 3 = 300 litres, so 900 - 300 = 600 litres are missing. The pump needs "
        "600 / 25 = 24 minutes.",
        "24",
    ),
    Exemplar(
        "Maja is 4 years older than Jon. In 6 years their ages will add up to 40. How old is Maja now?",
        "In 6 years both are 6 years older, so now their ages add up to 40 - 2 * 6 = 28. Without the 4 years that Maja "
        "is older it would be 28 - 4 = 24, so Jon is 24 / 2 = 12 and Maja is 12 + 4 = 16.",
        "16",
    ),
    Exemplar(
        "A farmer picks 250 pears. A tenth of them are bruised, and the others go into boxes of 9. How many boxes does "
        "he fill?",
        "A tenth of 250 is 25, so 250 - 25 = 225 pears are good. They fill 225 / 9 = 25 boxes.",
        "25",
    ),
    Exemplar(
        "A shop lowers the price of a $60 lamp by 20% and then sells 15 of them. How many dollars does it take in?",
        "20% of 60 is 12, so a lamp costs 60 - 12 = 48 dollars. For 15 lamps the shop takes in 15 * 48 = 720 dollars.",
        "720",
    ),
    Exemplar(
        "Nine classes of 24 pupils go on a trip by bus. Each bus has 54 seats. How many buses do they need?",
        "There are 9 * 24 = 216 pupils. They need 216 / 54 = 4 buses.",
        "4",
    ),
)

CHOICE = (
    Exemplar(
        "Why does a puddle on a street disappear on a sunny day although nothing flows away?",
        "Heat from the sun gives water molecules enough energy to leave the liquid as vapour. That is evaporation.",
        "C",
        ("The water freezes.", "The water condenses.", "The water evaporates.", "The water becomes salt."),
    ),
    Exemplar(
        "Which part of a plant takes up most of its water?",
        "Water enters a plant from the soil, and the part that grows in the soil is the root.",
        "A",
        ("the roots", "the flowers", "the seeds", "the bark"),
    ),
    Exemplar(
        "A ball rolls along a level floor and slows down until it stops. Which force stops it?",
        "A moving ball keeps moving unless a force acts against its motion. On a level floor gravity acts straight "
        "down, so what slows the ball is the rubbing of ball and floor.",
        "B",
        ("gravity", "friction", "magnetism", "buoyancy"),
    ),
    Exemplar(
        "What causes day and night on Earth?",
        "A place has day while it faces the sun. The side that faces the sun changes because Earth turns once in 24 "
        "hours.",
        "D",
        (
            "Earth moves around the sun.",
            "The moon covers the sun.",
            "The sun moves around Earth.",
            "Earth turns around its axis.",
        ),
    ),
    Exemplar(
        "Which of these is a chemical change?",
        "In a chemical change a new substance forms. Cutting, melting and dissolving leave the substance what it was; "
        "rust is a new one, made of iron and oxygen.",
        "B",
        ("cutting paper", "iron rusting", "ice melting", "sugar dissolving in tea"),
    ),
    Exemplar(
        "Foxes in a valley eat mice. A sickness kills most of the foxes. What most likely happens to the mice first?",
        "With fewer foxes fewer mice are eaten, so more mice live and have young.",
        "A",
        (
            "Their number grows.",
            "Their number falls.",
            "They begin to eat foxes.",
            "They leave the valley.",
        ),
    ),
    Exemplar(
        "Which object is the best conductor of electricity?",
        "Metals conduct electricity well; wood, glass and rubber hardly conduct it. The copper wire is the metal.",
        "C",
        ("a wooden spoon", "a glass rod", "a copper wire", "a rubber band"),
    ),
    Exemplar(
        "A student wants to know whether salt changes how fast ice melts. What should differ between her two cups of "
        "ice?",
        "In a fair test only the thing that is studied differs. She studies salt, so only the salt should differ.",
        "D",
        ("the size of the cups", "the amount of ice", "the temperature of the room", "whether salt is added"),
    ),
    Exemplar(
        "From where does the moon's light come that we see at night?",
        "The moon makes no light of its own. It sends light of the sun back to us.",
        "B",
        ("from burning gas on the moon", "from the sun", "from other stars"),
    ),
)

EXEMPLARS: dict[AnswerFormat, tuple[Exemplar, ...]] = {"number": NUMBER, "choice": CHOICE, "boxed": NUMBER}
"""The exemplars of each answer format; the task's problems of that format draw from them in this order."""
