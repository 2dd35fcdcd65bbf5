"Colors for code: few of them, and each with a contrast of at least 4.5 on the sheet that code stands on"
from pygments.style import Style
from pygments.token import Comment, Error, Generic, Keyword, Name, Number, Operator, String, Token

def rules(text, comment, keyword, string, number, name, decorator):
    "The colors of a theme by what they are for"
    return {Token: text, Comment: f'italic {comment}', Keyword: keyword, Operator.Word: keyword, String: string, String.Doc: string, Number: number,
            Name.Function: name, Name.Class: name, Name.Decorator: decorator, Keyword.Constant: number, Name.Exception: name,
            Generic.Prompt: comment, Generic.Output: text, Error: text}

class Light(Style):
    "Ink on paper"
    background_color, highlight_color, line_number_color = '#f7f5ef', '#fff3c4', '#5f646b'
    styles = rules('#22262b', '#63686e', '#0b6b4b', '#8f4700', '#7b3aa0', '#0b5a99', '#7d5b00')

class Dark(Style):
    "Light on slate"
    background_color, highlight_color, line_number_color = '#1c2023', '#3a3620', '#a0a7ae'
    styles = rules('#d9dde1', '#9ba4ac', '#6fd3a8', '#f0b880', '#cbaaf2', '#86c5f4', '#e6cf7a')
