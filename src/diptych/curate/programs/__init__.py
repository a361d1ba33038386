"""Programs that write questions from scene graphs: what they ask, in which words, and how questions are balanced."""

from diptych.curate.programs.captions import CAPTION_PROGRAM
from diptych.curate.programs.depths import DEPTH_PROGRAMS
from diptych.curate.programs.descriptions import DESCRIPTION_PROGRAMS
from diptych.curate.programs.objects import OBJECT_PROGRAMS
from diptych.curate.programs.questions import Program
from diptych.curate.programs.several import SEVERAL_PROGRAMS, SeveralProgram

SINGLE: dict[str, Program] = {
    program.name: program for program in (*OBJECT_PROGRAMS, *DEPTH_PROGRAMS, *DESCRIPTION_PROGRAMS, CAPTION_PROGRAM)
}
"""Programs over one image by name: 24 that ask, and the caption."""
SEVERAL: dict[str, SeveralProgram] = {program.name: program for program in SEVERAL_PROGRAMS}
"""The 14 programs over several images by name."""
