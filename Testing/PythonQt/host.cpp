// A program with a real PythonQt, as Slicer is one, that runs a Python file: `pythonqt-host story.py`.
#include "host.h"

#include <PythonQtCppWrapperFactory.h>

void PythonQt_init_QtCore(PyObject*);
void PythonQt_init_QtGui(PyObject*);

namespace
{
// A new reference to what a function of the main module returns; null, with the error printed, where it raises.
PyObject* call(const char* function, const QString& argument = QString())
{
  PyObject* called = PyObject_GetAttrString(PythonQt::self()->getMainModule().object(), function);
  if (!called)
  {
    PyErr_Clear(); // not defined as yet
    return nullptr;
  }
  PyObject* result = argument.isNull() ? PyObject_CallNoArgs(called)
                                       : PyObject_CallFunction(called, "s", argument.toUtf8().constData());
  Py_DECREF(called);
  if (!result)
  {
    PyErr_Print();
  }
  return result;
}

class VtkObjects : public PythonQtForeignWrapperFactory
{
public:
  PyObject* wrap(const QByteArray& name, void* object) override
  {
    if (!name.startsWith("vtk"))
    {
      return nullptr;
    }
    Py_INCREF(static_cast<PyObject*>(object));
    return static_cast<PyObject*>(object);
  }
  void* unwrap(const QByteArray& name, PyObject* object) override
  {
    const bool isVtk = QByteArray(Py_TYPE(object)->tp_name).contains("vtk");
    return name.startsWith("vtk") && isVtk ? object : nullptr;
  }
};

class Widgets : public QUiLoader
{
public:
  QWidget* createWidget(const QString& className, QWidget* parent, const QString& name) override
  {
    QWidget* made = nullptr;
    if (className == "ctkCollapsibleButton")
      made = new ctkCollapsibleButton(parent);
    else if (className == "ctkSliderWidget")
      made = new ctkSliderWidget(parent);
    else if (className == "ctkPathLineEdit")
      made = new ctkPathLineEdit(parent);
    else if (className == "qMRMLWidget")
      made = new qMRMLWidget(parent);
    else if (className == "qMRMLNodeComboBox")
      made = new qMRMLNodeComboBox(parent);
    else
      return QUiLoader::createWidget(className, parent, name);
    made->setObjectName(name);
    return made;
  }
};
} // namespace

qMRMLNodeComboBox::qMRMLNodeComboBox(QWidget* parent)
  : QWidget(parent), m_box(new QComboBox(this)), m_filter(new qMRMLSortFilterProxyModel(this))
{
  auto* layout = new QHBoxLayout(this);
  layout->setContentsMargins(0, 0, 0, 0);
  layout->addWidget(m_box);
  connect(m_filter, &qMRMLSortFilterProxyModel::changed, this, &qMRMLNodeComboBox::refresh);
  connect(m_box, &QComboBox::currentIndexChanged, this, [this](int index) {
    m_current = m_box->itemData(index).toString();
    tell();
  });
}

vtkMRMLNode* qMRMLNodeComboBox::currentNode() const
{
  PyObject* node = m_current.isEmpty() ? nullptr : call("_node", m_current);
  return node == Py_None ? nullptr : reinterpret_cast<vtkMRMLNode*>(node);
}

void qMRMLNodeComboBox::tell()
{
  vtkMRMLNode* node = currentNode();
  emit currentNodeChanged(node);
  emit currentNodeChanged(node != nullptr);
}

void qMRMLNodeComboBox::setCurrentNode(vtkMRMLNode* node)
{
  PyObject* id = node ? PyObject_CallMethod(reinterpret_cast<PyObject*>(node), "GetID", nullptr) : nullptr;
  setCurrentNodeID(id && id != Py_None ? QString::fromUtf8(PyUnicode_AsUTF8(id)) : QString());
}

void qMRMLNodeComboBox::setCurrentNodeID(const QString& id)
{
  const int index = id.isEmpty() ? -1 : m_box->findData(id);
  if (index != m_box->currentIndex())
  {
    m_box->setCurrentIndex(index);
  }
}

void qMRMLNodeComboBox::refresh()
{
  PyObject* nodes = call("_nodes");
  if (!nodes)
  {
    return;
  }
  const QString before = m_current;
  m_box->blockSignals(true);
  m_box->clear();
  for (Py_ssize_t number = 0; number < PyList_Size(nodes); ++number)
  {
    PyObject* pair = PyList_GetItem(nodes, number);
    const QString id = PyUnicode_AsUTF8(PyTuple_GetItem(pair, 0));
    if (!m_filter->hiddenNodeIDs().contains(id))
    {
      m_box->addItem(PyUnicode_AsUTF8(PyTuple_GetItem(pair, 1)), id);
    }
  }
  Py_DECREF(nodes);
  const int index = m_box->findData(before);
  m_box->setCurrentIndex(index < 0 && m_box->count() ? 0 : index);
  m_box->blockSignals(false);
  m_current = m_box->currentData().toString();
  if (m_current != before)
  {
    tell();
  }
}

QWidget* UiLoader::load(const QString& path)
{
  QFile file(path);
  Widgets widgets;
  return file.open(QFile::ReadOnly) ? widgets.load(&file) : nullptr;
}

// What ctkBasePopupWidget asks of ctkWidgetsUtils, the rest of which is not needed.
namespace ctk
{
QImage grabWidget(QWidget* widget, QRect rectangle)
{
  return widget->grab(rectangle).toImage();
}
} // namespace ctk

int main(int argc, char** argv)
{
  QApplication application(argc, argv);
  QApplication::setAttribute(Qt::AA_DontUseNativeDialogs);
  PythonQt::init(PythonQt::IgnoreSiteModule);
  PythonQt_init_QtCore(nullptr);
  PythonQt_init_QtGui(nullptr);
  PythonQt* python = PythonQt::self();
  python->addWrapperFactory(new VtkObjects);
  python->addDecorators(new Constructors);
  for (const QMetaObject* meta : { &ctkCollapsibleButton::staticMetaObject, &ctkSliderWidget::staticMetaObject,
                                   &ctkPathLineEdit::staticMetaObject, &qMRMLWidget::staticMetaObject,
                                   &qMRMLNodeComboBox::staticMetaObject, &qMRMLSortFilterProxyModel::staticMetaObject })
  {
    python->registerClass(meta, "widgets");
  }
  UiLoader loader;
  PythonQtObjectPtr main = python->getMainModule();
  main.addObject("_loader", &loader);
  main.addObject("_application", &application);
  main.evalFile(argv[1]);
  return 0;
}
